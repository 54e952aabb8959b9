"""The search as a small local page: one address, which takes a text, or an image as an upload, and gives a page of data URIs.

No path of a request leads anywhere: images are those that the index names, inside their folder. A page of another site can
neither read answers (a name that is rebound to this host is refused) nor have images searched for (its origin is another).
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from bridgetower_train.display import print_line
from bridgetower_train.errors import UserError
from bridgetower_train.pages.html import policy
from bridgetower_train.pages.search.page import MAX_TEXT, search_form, search_page, start_page
from bridgetower_train.pages.search.view import facts, view
from bridgetower_train.use.search import Search

MAX_UPLOAD = 16 << 20
"""Bytes of a request."""
MAX_WAITING = 8
"""Searches that wait for the one that is running; others are told to come again."""

_HEADERS = {
    "Content-Security-Policy": f"{policy()}; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer the origin of our own form would be null
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serve(search: Search, port: int, host: str, top: int, rerank: int, attention: int) -> None:
    """Serve until the process is interrupted. UserError where nothing can listen there."""

    async def run() -> None:
        runner, address = await listen(application(search, host, top, rerank, attention), host, port)
        print_line(f"search: {address} (Ctrl-C ends it)")
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    asyncio.run(run())


async def listen(app: web.Application, host: str, port: int) -> tuple[web.AppRunner, str]:
    """(what to clean up at the end, the address); port 0 is any that is free."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise UserError(f"serve={port}: {error.strerror or error}; choose another port, or host") from None
    name, number, *_ = runner.addresses[0]
    return runner, f"http://{f'[{name}]' if ':' in name else name}:{number}"


def application(search: Search, host: str, top: int, rerank: int, attention: int) -> web.Application:
    """The page at `/`. The numbers are the keys of the command."""
    one_at_a_time, waiting = asyncio.Semaphore(1), 0
    of_images = search.index.about.kind == "images"

    def answer(text: str | None, image: bytes | None, name: str) -> str:
        query = search.query(text, image, name)
        possible = rerank if of_images == (image is None) else 0
        shown = view(search, query, search.find(query, top, possible), attention)
        return search_page(shown, search_form(of_images, text or ""))

    def start(status: int = 200, text: str = "", fault: str = "") -> web.Response:
        return _page(start_page(facts(search), search_form(of_images, text), fault), status)

    async def found(text: str | None, image: bytes | None = None, name: str = "") -> web.Response:
        nonlocal waiting
        if waiting >= MAX_WAITING:
            return start(503, fault="Too many searches at once; try again.")
        waiting += 1
        try:
            async with one_at_a_time:
                return _page(await asyncio.to_thread(answer, text, image, name))
        except UserError as error:
            return start(400, text or "", str(error))
        finally:
            waiting -= 1

    async def by_text(request: web.Request) -> web.StreamResponse:
        text = request.query.get("text", "")
        if len(text) > MAX_TEXT:
            raise web.HTTPBadRequest(text=f"a text has at most {MAX_TEXT} characters")
        if not text.strip():
            return start()
        return await found(text)

    async def by_image(request: web.Request) -> web.StreamResponse:
        if request.content_type != "multipart/form-data":
            raise web.HTTPUnsupportedMediaType
        fields = await request.post()  # raises where it has more than MAX_UPLOAD bytes
        upload = fields.get("image")
        if not isinstance(upload, web.FileField):
            raise web.HTTPBadRequest(text="no image was sent")
        with upload.file:
            return await found(None, upload.file.read(), upload.filename[:100] or "image")

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_here(request.host, host):
            raise web.HTTPForbidden(text="this name is not served")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(text="another site may not search here")
        return await handler(request)

    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(_HEADERS)

    app = web.Application(client_max_size=MAX_UPLOAD, middlewares=[guard])
    app.router.add_get("/", by_text)
    app.router.add_post("/", by_image)
    app.on_response_prepare.append(sign)
    return app


def _page(content: str, status: int = 200) -> web.Response:
    return web.Response(text=content, status=status, content_type="text/html", charset="utf-8")


def _is_here(given: str, host: str) -> bool:
    """Whether a Host header is an address, `localhost`, or the name that is served. Any other may be a stranger's."""
    name = urlsplit(f"//{given}").hostname or ""
    if name in ("localhost", host.lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
