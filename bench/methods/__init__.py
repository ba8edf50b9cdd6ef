"""The ways to move an image, one module each, all of one shape.

Promises: every method has `NAME` and `run(link, image, folder) -> Result`; what is timed is the
move alone, from an image at the source to a file at the destination; whether that is identical is
checked afterwards. A new method is a new module with these two names, and a line in
`bench.rows.context.METHODS`.

Never: lets one method start warm where another starts cold.
"""
