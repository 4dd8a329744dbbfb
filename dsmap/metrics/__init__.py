"""How good translations are: distances between sets of images, what is kept of the content, diversity.

`extractors` turns images into features; `distances`, `diversity`, `preservation` and `classifier` measure;
`intervals` says how sure a number is; `findings` is what all of it comes together in.
"""
