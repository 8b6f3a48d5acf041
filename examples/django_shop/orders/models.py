"""Books, and orders of them."""

from django.db import models


class Book(models.Model):
    title = models.CharField(max_length=100, unique=True)
    stock = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return self.title


class Order(models.Model):
    class State(models.TextChoices):
        PLACED = "placed"
        RESERVED = "reserved"
        PAID = "paid"
        SOLD_OUT = "sold out"

    book = models.ForeignKey(Book, on_delete=models.PROTECT)
    email = models.EmailField()
    state = models.CharField(max_length=20, choices=State, default=State.PLACED)
    thanked = models.BooleanField(default=False)
    created = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"order {self.pk}: {self.state}"
