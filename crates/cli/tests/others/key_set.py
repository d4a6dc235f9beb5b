"""Loads a key set (stdin) with two libraries and prints what they made of it, one line per key: kid, thumbprint,
whether both see the same point, whether it is private."""

import json
import sys

import jwt
from jwcrypto.jwk import JWKSet

text = sys.stdin.read()
theirs = {key["kid"]: key for key in JWKSet.from_json(text)["keys"]}
loaded = jwt.PyJWKSet.from_json(text).keys
assert len(loaded) == len(theirs) == len(json.loads(text)["keys"])
for key in loaded:
    assert key.algorithm_name == "ES256" and key.public_key_use == "sig"
    other = theirs[key.key_id]
    same = other.get_op_key("verify").public_numbers() == key.key.public_numbers()
    print(key.key_id, other.thumbprint(), same, other.has_private)
