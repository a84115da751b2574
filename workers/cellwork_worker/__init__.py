"""What lives between a Celery worker and the body of a task: the pool, the supervisor, the executors."""
