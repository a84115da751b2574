"""A page that starts a task and follows it: uvicorn web:web"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from uuid import UUID

from celery.result import AsyncResult
from celery.states import READY_STATES
from fastapi import Body, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field, ValidationError

from tasks import app, estimate_pi

HERE = Path(__file__).parent

#: Seconds between two looks at a task, and until a page that follows one has to ask again.
LOOK, LONGEST = 0.2, 600.0

#: The browser runs no script and loads nothing that does not come from here.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"

web = FastAPI(docs_url=None, redoc_url=None)
web.mount("/static", StaticFiles(directory=HERE / "static"))


class Progress(BaseModel):
    """What a task says of itself comes from a sandbox: a stranger's data until it has been checked."""

    done: int = Field(ge=0)
    of: int = Field(gt=0)
    pi: float


class Job(BaseModel):
    """What the page shows."""

    state: str
    progress: Progress | None = None
    result: float | None = None


@web.middleware("http")
async def guard(request: Request, call_next) -> Response:
    response = await call_next(request)
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


@web.get("/")
def page() -> FileResponse:
    return FileResponse(HERE / "static" / "index.html")


@web.post("/jobs", status_code=202)
def start(steps: Annotated[int, Body(embed=True, ge=1, le=500)]) -> dict[str, str]:
    """Enqueue. The id is random, and so whoever was not told it cannot ask for the job."""
    return {"id": estimate_pi.delay(steps).id}


@web.delete("/jobs/{job_id}", status_code=204)
def stop(job_id: UUID) -> None:
    """End its sandbox, or keep it from being started."""
    AsyncResult(str(job_id), app=app).revoke(terminate=True)


@web.get("/jobs/{job_id}/events")
def events(job_id: UUID) -> StreamingResponse:
    """Each change of its state, as server-sent events; the last one says so."""
    return StreamingResponse(follow(str(job_id)), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def follow(job_id: str) -> AsyncIterator[str]:
    said = None
    for _ in range(int(LONGEST / LOOK)):
        job, ended = await run_in_threadpool(look, job_id)
        if job != said:
            yield f"data: {job.model_dump_json()}\n\n"
            said = job
        if ended:
            yield "event: end\ndata:\n\n"
            return
        await asyncio.sleep(LOOK)


def look(job_id: str) -> tuple[Job, bool]:
    """The job now, and whether it is over; from one answer, for the next one may be another."""
    meta = app.backend.get_task_meta(job_id)
    state, info = meta["status"], meta["result"]
    progress = None
    if state == "PROGRESS":
        with suppress(ValidationError):  # what is no progress is not shown
            progress = Progress.model_validate(info)
    value = info if state == "SUCCESS" and isinstance(info, float) else None
    return Job(state=state, progress=progress, result=value), state in READY_STATES
