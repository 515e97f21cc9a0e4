"""Methods of the field, as functions of a Model; one file each, named after what it does."""
