"""What `new_task` guesses about a user's file. No stage imports this room: a better guess makes no stage stale."""
