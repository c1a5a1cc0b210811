"""The demo: a gallery in one HTML file, a page in the browser, an explanation in the terminal."""
