"""The EC2 emulator's process: moto's server, which knows EC2's quotas besides. Arguments: its port, and the file with the account's own quotas."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.server import main
from moto.servicequotas.exceptions import NoSuchResource
from moto.servicequotas.models import ServiceQuotasBackend
from moto.servicequotas.responses import ServiceQuotasResponse

DEFAULTS = {
    "L-1216C47A": ("Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", 256.0),
    "L-DB2E81BA": ("Running On-Demand G and VT instances", 256.0),
    "L-417A185B": ("Running On-Demand P instances", 0.0),
    "L-0263D0A3": ("EC2-VPC Elastic IPs", 5.0),
}


def serve(port: str, own: Path) -> None:
    """Until it is killed.

    Args:
        port: Of this host.
        own: JSON with values by the quota's code, or null where the account may not ask.
    """

    def answer(backend: ServiceQuotasBackend, service: str, code: str, value: float | None) -> dict[str, Any]:
        if service != "ec2" or code not in DEFAULTS or value is None:
            raise NoSuchResource
        place = f"arn:aws:servicequotas:{backend.region_name}"
        facts = {"ServiceCode": service, "QuotaCode": code, "QuotaName": DEFAULTS[code][0], "QuotaArn": f"{place}:{backend.account_id}:ec2/{code}"}
        return {**facts, "Value": value, "Unit": "None", "Adjustable": True, "GlobalQuota": False}

    def values(action: str) -> dict[str, float]:
        known = json.loads(own.read_text())
        if known is None:
            told = f"User: arn:aws:iam::123456789012:user/ops is not authorized to perform: servicequotas:{action} because no identity-based policy allows it"
            raise JsonRESTError("AccessDeniedException", told)
        return known

    def of_account(backend: ServiceQuotasBackend, service_code: str, quota_code: str) -> dict[str, Any]:
        return answer(backend, service_code, quota_code, values("GetServiceQuota").get(quota_code))

    def default(response: ServiceQuotasResponse) -> str:
        values("GetAWSDefaultServiceQuota")
        asked = json.loads(response.body)
        code = str(asked["QuotaCode"])
        return json.dumps({"Quota": answer(response.backend, str(asked["ServiceCode"]), code, DEFAULTS.get(code, ("", None))[1])})

    ServiceQuotasBackend.get_service_quota = of_account
    ServiceQuotasResponse.get_aws_default_service_quota = default  # the AWS provider asks it first, and moto has none
    main(["-H", "127.0.0.1", "-p", port])


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
