// The page of `mlx-interp explore`: asks the program behind it, shows what comes back and the Python that gives it.
const lines = [...data.opening];
const wrote = more => {
  lines.push("", ...more);
  byId("code").textContent = lines.join("\n");
  byId("code").scrollTop = byId("code").scrollHeight;
};
byId("code").textContent = lines.join("\n");
byId("copy").addEventListener("click", async () => {
  try { await navigator.clipboard.writeText(lines.join("\n")); said("copied"); }
  catch { getSelection().selectAllChildren(byId("code")); said("selected: copy it with the keyboard"); }
});

function said(text, wrong = false) {
  byId("state").textContent = text;
  byId("state").classList.toggle("wrong", wrong);
}
const GONE = "The program behind this page has ended: start it again and open the address that it prints. What is shown stays.";
function ended() { document.body.classList.add("ended"); said(GONE, true); }

// One request; null where it was refused, and why is said.
async function ask(action, request) {
  said("the model works …");
  let answer;
  try {
    const response = await fetch(action, { method: "POST", body: JSON.stringify(request), headers: { "Content-Type": "application/json" } });
    answer = await response.json();
  } catch { ended(); return null; }
  document.body.classList.remove("ended");
  if (answer.error) { said(answer.error, true); return null; }
  said("");
  return answer;
}
setInterval(async () => {
  if (document.hidden || document.body.classList.contains("ended")) return;
  try { if (!(await (await fetch("alive")).json()).alive) ended(); } catch { ended(); }
}, data.beat);

let read = null, cell = null;
const prompt_ = () => ({ prompt: byId("prompt").value, chat: byId("chat").checked });
const frame = name => byId(name);
function view(name, page) {
  frame(name).srcdoc = page;
  frame(name).onload = () => frame(name).contentWindow.postMessage({ theme: document.documentElement.dataset.theme || "" }, "*");
}
onTheme.push(() => { for (const name of ["lens", "attention"]) frame(name).contentWindow.postMessage({ theme: document.documentElement.dataset.theme || "" }, "*"); });

byId("reading").addEventListener("submit", async event => {
  event.preventDefault();
  const request = prompt_(), answer = await ask("read", request);
  if (!answer) return;
  read = { request, tokens: answer.tokens };
  cell = null;
  byId("read").hidden = false;
  byId("patch").disabled = true;
  byId("cell").textContent = "click a cell of the lens";
  byId("patched").replaceChildren();
  byId("steered").replaceChildren();
  view("lens", answer.lens);
  view("attention", answer.attention);
  wrote(answer.code);
});
byId("prompt").addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); byId("reading").requestSubmit(); }
});

const tabs = ["lens", "attention"].map(name => byId("tab-" + name));
roving(tabs, chosen => chosen.click());
for (const tab of tabs) tab.addEventListener("click", () => {
  for (const other of tabs) {
    other.setAttribute("aria-selected", String(other === tab));
    byId(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
});

// A frame tells which cell was clicked; from anywhere else nothing is heard.
addEventListener("message", event => {
  if (event.source !== frame("lens").contentWindow || !event.data.cell || !read) return;
  const { layer, position, clicked } = event.data.cell;
  cell = { layer, position };
  byId("patch").disabled = false;
  byId("cell").textContent = `${data.site}.${layer}, position ${position} ${quoted(read.tokens[position])}`;
  if (clicked) patch();
});
async function patch() {
  if (!cell || !read) return;
  const answer = await ask("patch", { ...read.request, ...cell, source: byId("source").value });
  if (!answer) return;
  byId("patched").replaceChildren(el("p", { class: "faint" }, answer.what),
    el("div", { class: "two" }, el("div", {}, el("h2", {}, "before"), bars(answer.before)), el("div", {}, el("h2", {}, "after"), bars(answer.after))));
  wrote(answer.code);
}
byId("patch").addEventListener("click", patch);

byId("direction").append(...data.directions.map(path => el("option", { value: path }, path)));
byId("layer").max = data.n_layers - 1;
byId("layer").value = Math.floor(data.n_layers / 2);
byId("length").max = data.most_new;
byId("chatting").hidden = !data.can_chat;
function measure() {
  const saved = byId("direction").value !== "";
  for (const part of document.querySelectorAll(".pair")) part.hidden = saved;
  Object.assign(byId("strength"), saved ? { min: -0.5, max: 0.5, step: 0.025 } : { min: -4, max: 4, step: 0.25 });
  strength();
}
const strength = () => {
  byId("said").textContent = byId("strength").value + (byId("direction").value ? " of the stream's norm" : " times the difference");
  byId("strength").setAttribute("aria-valuetext", byId("said").textContent);
};
byId("direction").addEventListener("change", measure);
byId("strength").addEventListener("input", strength);
byId("strength").addEventListener("change", async () => {
  if (!read) return;
  const answer = await ask("steer", {
    ...read.request, direction: byId("direction").value, plus: byId("plus").value, minus: byId("minus").value,
    layer: Number(byId("layer").value), strength: Number(byId("strength").value), max_tokens: Number(byId("length").value),
  });
  if (!answer) return;
  byId("steered").replaceChildren(el("div", { class: "two" },
    el("div", {}, el("h2", {}, "unsteered"), el("p", { class: "text" }, answer.plain)),
    el("div", {}, el("h2", {}, "steered"), el("p", { class: "text" }, answer.steered))));
  wrote(answer.code);
});
measure();
