"""TF Serving: compose files for the stock image, clients of folders and servers, a smoke check."""
