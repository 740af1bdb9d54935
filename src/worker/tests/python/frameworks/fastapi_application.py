from fastapi import FastAPI

app = FastAPI()


@app.get("/items/{number}")
async def item(number: int, q: str):
    return {"number": number, "q": q}
