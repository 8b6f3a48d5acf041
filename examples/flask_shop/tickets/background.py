"""The Aiki app. Task modules and views import it; it starts nothing."""

from aiki import Aiki

app = Aiki("tickets")
