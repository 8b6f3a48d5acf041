"""The tests of Aiki, and the servers they need (`services`): `bench` imports these too."""
