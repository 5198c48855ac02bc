"""Between a client and any backend server: replaying what was recorded there."""
