"""MONAI Label's own client, in its own environment: a JSON call on each line of stdin, its result on stdout."""

import json
import sys

from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException

client = MONAILabelClient(sys.argv[1], tmpdir=sys.argv[2])
for line in sys.stdin:
    method, arguments = json.loads(line)
    try:
        answer = {"result": getattr(client, method)(*arguments)}
    except MONAILabelClientException as error:
        answer = {"error": str(error.msg)}
    print(json.dumps(answer), flush=True)
