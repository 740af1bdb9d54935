"""Fails for a finding of testssl.sh above LOW: `testssl-findings.py FILE`, written by `--jsonfile`."""

import json
import sys

# What is found of the certificate, which this script's caller has made for a day, and what the program cannot test.
EXPECTED = {
    "cert_chain_of_trust": "the authority is its own",
    "cert_expirationStatus": "it is valid for a day",
    "cert_notAfter": "it is valid for a day",
    "cert_revocation": "no URI of a list: the authority has no server",
    # The one exception that is no matter of the certificate. testssl.sh wants the server's order of cipher suites. Here the
    # client's is taken: all suites are strong, and a client knows whether its processor has AES. Mozilla recommends it, too,
    # and sslyze compares with that.
    "cipher_order": "the client's order is taken",
    "cipherorder": "the client's order is taken",
}
# WARN is for what the program could not do, for example with an OpenSSL that has no old ciphers.
ABOVE_LOW = {"MEDIUM", "HIGH", "CRITICAL", "FATAL"}

with open(sys.argv[1], encoding="utf-8") as file:
    findings = json.load(file)
# An interrupted run has few.
assert len(findings) > 60, f"{len(findings)} findings"
wrong = [f for f in findings if f["severity"] in ABOVE_LOW and f["id"].split(" ")[0] not in EXPECTED]
for finding in wrong:
    print(finding["severity"], finding["id"], finding["finding"])
print(f"{len(findings)} findings, {len(wrong)} of them above LOW")
sys.exit(bool(wrong))
