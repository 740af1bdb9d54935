// The page of the chat: one WebSocket, at the path of the page.
const state = document.querySelector("#state");
const form = document.querySelector("form");
const url = new URL(location.href);
url.protocol = url.protocol.replace("http", "ws");
const socket = new WebSocket(url);
socket.onopen = () => (state.textContent = "Connected.");
socket.onclose = () => (state.textContent = "Not connected: the chat needs --asgi. Reload the page to try again.");
socket.onmessage = event => {
  const { name, text } = JSON.parse(event.data);
  const item = document.createElement("li");
  item.textContent = `${name}: ${text}`;
  document.querySelector("#messages").append(item);
};
form.onsubmit = event => {
  event.preventDefault();
  socket.send(form.elements.text.value);
  form.reset();
};
