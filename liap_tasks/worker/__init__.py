"""What a worker does with a message before Celery sees it, and for attempts that cannot end by themselves."""
