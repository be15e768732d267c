"""Answers one question about JSON Web Signatures and canonical JSON with other people's libraries.

In: a JSON object on standard input, whose `ask` names the question. Out: a JSON object on standard
output. An exception ends with exit code 1: whoever asks must treat that as a failure.
"""

import base64
import json
import sys
import warnings

import rfc8785
from joserfc import jws, jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, OKPKey

# RFC 9864 renames EdDSA; A2A and SPIFFE still write the older name.
warnings.simplefilter("ignore", SecurityWarning)

ALGORITHMS = ["EdDSA", "ES256"]
TOKEN_TYPE = "agent-grant+jwt"


def key(description):
    """A key from a JWK or a PEM text."""
    if isinstance(description, str):
        kind = OKPKey if description_is_okp(description) else ECKey
        return kind.import_key(description)
    kind = {"OKP": OKPKey, "EC": ECKey}[description["kty"]]
    return kind.import_key(description)


def description_is_okp(pem):
    try:
        OKPKey.import_key(pem)
    except (JoseError, ValueError, TypeError):
        return False
    return True


def payload(manifest):
    """What the signatures of a manifest are over."""
    return rfc8785.dumps({name: value for name, value in manifest.items() if name != "signatures"})


def canonical(question):
    texts = (rfc8785.dumps(json.loads(text)) for text in question["texts"])
    return {"texts": [text.decode() for text in texts]}


def new_key(question):
    made = {"EdDSA": lambda: OKPKey.generate_key("Ed25519"), "ES256": lambda: ECKey.generate_key("P-256")}
    secret = made[question["algorithm"]]()
    return {
        "pem": secret.as_pem(private=True).decode(),
        "jwk": secret.as_dict(private=False),
        "thumbprint": secret.thumbprint(),
    }


def show_key(question):
    secret = key(question["pem"])
    return {"jwk": secret.as_dict(private=False), "thumbprint": secret.thumbprint()}


def verify_manifest(question):
    manifest = question["manifest"]
    encoded = base64.urlsafe_b64encode(payload(manifest)).rstrip(b"=").decode()
    for signature in manifest["signatures"]:
        compact = f"{signature['protected']}.{encoded}.{signature['signature']}"
        try:
            jws.deserialize_compact(compact, key(question["jwk"]), algorithms=ALGORITHMS)
        except JoseError as error:
            return {"holds": False, "error": str(error)}
    return {"holds": True}


def sign_manifest(question):
    manifest = question["manifest"]
    header = {"alg": question["algorithm"], "kid": question["kid"], "typ": "JOSE"}
    compact = jws.serialize_compact(header, payload(manifest), key(question["pem"]), algorithms=ALGORITHMS)
    protected, _, signature = compact.split(".")
    manifest["signatures"] = [{"protected": protected, "signature": signature}]
    return {"manifest": manifest}


def verify_token(question):
    try:
        token = jwt.decode(question["token"], key(question["jwk"]), algorithms=ALGORITHMS)
    except JoseError as error:
        return {"holds": False, "error": str(error)}
    return {"holds": True, "header": token.header, "claims": token.claims}


def sign_token(question):
    header = {"alg": question["algorithm"], "kid": question["kid"], "typ": TOKEN_TYPE}
    token = jwt.encode(header, question["claims"], key(question["pem"]), algorithms=ALGORITHMS)
    return {"token": token}


QUESTIONS = [canonical, new_key, show_key, verify_manifest, sign_manifest, verify_token, sign_token]


def main():
    question = json.load(sys.stdin)
    (answer,) = [ask for ask in QUESTIONS if ask.__name__ == question["ask"]]
    json.dump(answer(question), sys.stdout)


main()
