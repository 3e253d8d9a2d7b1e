"""Image classification for kdcore: your own teacher, your own pictures, a phone-sized net."""
