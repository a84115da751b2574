// Starts a job and shows what the server says of it. Everything from there is shown as text, never as markup.

const form = document.querySelector("#start");
const stop = document.querySelector("#stop");
const bar = document.querySelector("#bar");
const words = {
  PENDING: "Waiting for a worker",
  STARTED: "Started",
  SUCCESS: "Done",
  FAILURE: "Failed",
  REVOKED: "Stopped",
};

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = JSON.stringify({ steps: Number(form.querySelector("#steps").value) });
  const answer = await fetch("/jobs", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  if (answer.ok) {
    follow((await answer.json()).id);
  } else {
    document.querySelector("#job").hidden = false;
    document.querySelector("#state").textContent = `The server refuses: ${answer.status}`;
  }
});

function follow(id) {
  running(true);
  show({ state: "PENDING" });
  stop.onclick = () => fetch(`/jobs/${id}`, { method: "DELETE" });
  const events = new EventSource(`/jobs/${id}/events`);
  events.onmessage = (event) => show(JSON.parse(event.data));
  events.addEventListener("end", () => {
    events.close();
    running(false);
  });
}

function show({ state, progress, result }) {
  if (state === "SUCCESS") bar.value = 1;
  else if (progress) bar.value = progress.done / progress.of;
  else if (state === "PENDING") bar.removeAttribute("value");
  document.querySelector("#state").textContent = progress ? `Step ${progress.done} of ${progress.of}` : (words[state] ?? state);
  const pi = result ?? progress?.pi;
  document.querySelector("#pi").textContent = pi == null ? "" : `π ≈ ${pi.toFixed(5)}`;
}

function running(yes) {
  document.querySelector("#job").hidden = false;
  form.querySelector("button").disabled = yes;
  stop.hidden = !yes;
}
