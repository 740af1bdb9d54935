"""A chat of all visitors: each message goes to everybody who has the page open."""
import json

from channels.generic.websocket import AsyncWebsocketConsumer

MAX_LENGTH = 500  # characters of a message


class Chat(AsyncWebsocketConsumer):
    groups = ["chat"]

    async def receive(self, text_data=None, bytes_data=None):
        text = (text_data or "").strip()[:MAX_LENGTH]
        if text:
            name = await self.scope["session"].aget("name", "Somebody")
            message = json.dumps({"name": name, "text": text})
            await self.channel_layer.group_send("chat", {"type": "chat.message", "message": message})

    async def chat_message(self, event):
        await self.send(event["message"])
