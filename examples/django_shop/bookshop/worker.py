"""What workers load: `aiki-worker -A bookshop.worker`. Nothing else imports it."""

import os

import django
from django.utils.module_loading import autodiscover_modules

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bookshop.settings")
django.setup()
autodiscover_modules("tasks")

from bookshop.background import app  # noqa: E402, F401
