"""Programs of their own that answer questions within a time limit, one or several side by side."""

from tunix_grpo.workers.pool import WorkerPool
from tunix_grpo.workers.serving import serve
from tunix_grpo.workers.worker import NoReplyError, Worker, closed_at_end, counts

__all__ = ["NoReplyError", "Worker", "WorkerPool", "closed_at_end", "counts", "serve"]
