// Asks the desk who is on duty. Two servers take turns.
const desk = document.getElementById("desk");
const ring = document.getElementById("ring");

async function ask() {
  ring.disabled = true;
  try {
    const response = await fetch("/api/hello", { cache: "no-store" });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const { server, served, client } = await response.json();
    desk.textContent = `The ${server} porter answers, for the ${served}. time today. You came from ${client}.`;
    desk.dataset.server = server;
  } catch (error) {
    desk.textContent = `Nobody at the desk (${error.message}).`;
  } finally {
    ring.disabled = false;
  }
}

ring.addEventListener("click", ask);
ask();
