#!/bin/sh
# Print the newest Python of at least 3.11 that can make a virtual environment; say what to install when there is none.
for candidate in ${PYTHON:-} python3.14 python3.13 python3.12 python3.11 python3 python; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        echo "$candidate"
        exit 0
    fi
done
echo "error: no Python of version 3.11 or newer with its venv module was found (python3 here: $(python3 -V 2>&1))." >&2
echo "Install one: macOS 'brew install python@3.13', Debian or Ubuntu 'sudo apt install python3 python3-venv'," >&2
echo "or name one: make PYTHON=/path/to/python3 ..." >&2
exit 1
