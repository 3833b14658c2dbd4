"""
Who is calling: an API key becomes a principal, or the request ends with a 401.

Known keys come from the keys file, and then from the store. With a default plan set, an
unknown key that is not of our making is let in on that plan and goes upstream itself
(bring your own key): the upstream is then the judge, and a key it refused is refused
here for a while, so that guessing does not reach it.
"""

from __future__ import annotations

import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Final

import msgspec

from gateway.errors import (
    InvalidApiKey,
    ModelNotFound,
    StoreUnavailable,
    UpstreamRefused,
)
from gateway.policy_files import PolicyFiles
from gateway.secret import Secret
from gateway.settings import Settings
from gateway.upstream.client import Credentials
from policies.key_cache import KeysUnavailable, StoredKeys
from policies.keyring import (
    KEY_ID_CHARS,
    KEY_PREFIX,
    KeyRecord,
    digest_of,
    has_checksum,
)
from policies.ledger import KeyScope
from policies.model_patterns import matches_any
from policies.names import find_workspace_problem
from policies.plans import Plan

logger = logging.getLogger(__name__)

# LLMTune's and our keys are under 100 characters; a digest of more is work for nothing.
MAX_KEY_CHARS: Final = 512

# Printable ASCII alone: the key may have to travel on in a header of our own.
_IS_SOUND: Final = re.compile(rb"[\x21-\x7e]+").fullmatch

# Callers whose principal is kept ready. At half, a replica of many workspaces makes
# them anew for each call, which costs 5 us; at double they take 10 MB.
MAX_READY: Final = 10_000

# A guesser's keys are remembered only this many at a time, about 1 MB.
MAX_REFUSED: Final = 10_000

# Plans named by stored keys and missing here, of which the log has been told.
MAX_MISSED: Final = 1000


# In logs, in place of a key's id.
SIDECAR_KEY_ID: Final = "sidecar"
VOUCHED_KEY_ID: Final = "vouched"


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The caller, after authentication."""

    workspace: str
    plan: Plan
    key_id: str
    # The key's own narrowing of the plan's models.
    models: tuple[str, ...] | None
    # The key's own limits, and where they are counted.
    key_scope: KeyScope | None = None
    api_key: Secret
    is_own_key: bool

    def may_use(self, model: str) -> bool:
        """Whether plan and key both allow the model."""
        return _is_allowed(self.models, model) and _is_allowed(self.plan.models, model)

    def require(self, model: str) -> None:
        if not self.may_use(model):
            raise ModelNotFound(model)


# Plans and keys in use, by the models their callers ask for. 4 us a look without.
@lru_cache(maxsize=4096)
def _is_allowed(patterns: tuple[str, ...] | None, model: str) -> bool:
    return patterns is None or matches_any(patterns, model)


class Authenticator:
    """Turns an Authorization header into a principal."""

    def __init__(
        self,
        settings: Settings,
        files: PolicyFiles,
        keys: StoredKeys | None = None,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._files = files
        self._keys = keys
        self._missed_plans: set[str] = set()
        self._default_plan = settings.default_plan
        self._upstream_url = settings.upstream_url.rstrip("/")
        self._upstream_key = key = settings.upstream_api_key
        # Nearly everybody's, ready made.
        self._shared = (
            Credentials(self._upstream_url, key, is_callers_key=False) if key else None
        )
        self._refused_ttl_s = settings.refused_key_ttl_s
        self._refused: OrderedDict[str, float] = OrderedDict()
        self._now = now
        self._sidecar = Sidecar(settings, files) if settings.sidecar_workspace else None
        # As long as key and plan are the very ones they were made from.
        self._ready: dict[str, tuple[KeyRecord, Principal]] = {}

    def recognise(self, authorization: bytes | None) -> Principal | None:
        """
        As `authenticate`, of a key in the keys file; None of any other.

        It needs no coroutine, which two layers up saves 2 us a request.
        """
        if self._sidecar is not None:
            return self._sidecar.principal()
        api_key = _key_in(authorization)
        record = self._files.keyring.lookup_digest(digest_of(api_key))
        return None if record is None else self._known(api_key, record)

    async def authenticate(self, authorization: bytes | None) -> Principal:
        """
        The principal of a key, or InvalidApiKey.

        StoreUnavailable where only the store could tell: an application must not
        conclude that its key is wrong.
        """
        api_key = _key_in(authorization)
        digest = digest_of(api_key)
        # The file's word counts, so that an operator can overrule the store.
        record = self._files.keyring.lookup_digest(digest)
        if record is None and self._keys is not None and has_checksum(api_key):
            record = await _stored(self._keys, digest)
        if record is None:
            return self._bring_your_own(api_key, digest)
        return self._known(api_key, record)

    def _known(self, api_key: str, record: KeyRecord) -> Principal:
        plan = self._files.book.plan_for(record.plan, record.workspace)
        if plan is None:
            self._miss(record.plan)
        if plan is None or (
            record.expires_at is not None and record.is_expired(self._now())
        ):
            raise _incorrect(record.sha256)
        ready = self._ready.get(record.sha256)
        if ready is not None and ready[0] is record and ready[1].plan is plan:
            return ready[1]
        principal = self._to_principal(api_key, record, plan)
        if len(self._ready) >= MAX_READY:
            self._ready.clear()
        self._ready[record.sha256] = record, principal
        return principal

    def _to_principal(self, api_key: str, record: KeyRecord, plan: Plan) -> Principal:
        return Principal(
            workspace=record.workspace,
            plan=plan,
            key_id=record.key_id,
            models=record.models,
            key_scope=record.key_scope,
            api_key=Secret(api_key),
            is_own_key=False,
        )

    def _miss(self, plan: str) -> None:
        # Only of keys in the store: a keys file with an unknown plan is not taken.
        if plan not in self._missed_plans and len(self._missed_plans) < MAX_MISSED:
            self._missed_plans.add(plan)
            logger.warning("keys in the store name plan %r, which is not here", plan)

    def _bring_your_own(self, api_key: str, digest: str) -> Principal:
        # A key of ours that is no longer known stays ours: it goes to no upstream.
        if self._default_plan is None or api_key.startswith(KEY_PREFIX):
            raise _incorrect(digest)
        # The digest names the workspace, so that a key's usage stays its own.
        workspace = f"key-{digest[:32]}"
        plan = self._files.book.plan_for(self._default_plan, workspace)
        if plan is None or self._is_refused(digest):
            raise _incorrect(digest)
        return Principal(
            workspace=workspace,
            plan=plan,
            key_id=digest[:KEY_ID_CHARS],
            models=None,
            api_key=Secret(api_key),
            is_own_key=True,
        )

    def vouched(self, workspace: str, plan: str) -> Principal | None:
        """
        The principal of a workspace that somebody trusted names; None if it cannot be.
        """
        found = self._files.book.plan_for(plan, workspace)
        if found is None or find_workspace_problem(workspace) is not None:
            return None
        return Principal(
            workspace=workspace,
            plan=found,
            key_id=VOUCHED_KEY_ID,
            models=None,
            api_key=Secret(VOUCHED_KEY_ID),
            is_own_key=False,
        )

    def hear_refusal(self, principal: Principal, error: UpstreamRefused) -> None:
        """The upstream refused a call; if it was the caller's own key, remember it."""
        if principal.is_own_key and error.http_status == 401:
            self._remember_refused(digest_of(principal.api_key.reveal()))

    def _remember_refused(self, digest: str) -> None:
        self._refused[digest] = self._now().timestamp() + self._refused_ttl_s
        self._refused.move_to_end(digest)
        if len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)

    def _is_refused(self, digest: str) -> bool:
        until_s = self._refused.get(digest)
        if until_s is None:
            return False
        if until_s > self._now().timestamp():
            return True
        del self._refused[digest]
        return False

    def credentials(self, principal: Principal) -> Credentials:
        """With which key and to which fleet this principal's calls go."""
        fleet = principal.plan.upstream
        if fleet is None and self._shared is not None and not principal.is_own_key:
            return self._shared
        url = fleet.url.rstrip("/") if fleet else self._upstream_url
        own_key = self._upstream_key
        if fleet and fleet.api_key_env:
            of_fleet = os.environ.get(fleet.api_key_env)
            own_key = Secret(of_fleet) if of_fleet else None
        if own_key is None or principal.is_own_key:
            return Credentials(url, principal.api_key, is_callers_key=True)
        return Credentials(url, own_key, is_callers_key=False)


class Sidecar:
    """
    The one caller of a gateway that runs next to its application.

    The pod is the identity: who reaches the listener is in it. OpenAI's SDKs insist on
    sending some key, which says nothing here.
    """

    def __init__(self, settings: Settings, files: PolicyFiles) -> None:
        assert settings.sidecar_workspace is not None  # noqa: S101 - the caller's test
        self._workspace = settings.sidecar_workspace
        self._plan = settings.sidecar_plan or ""
        self._files = files
        self._ready: Principal | None = None

    def principal(self) -> Principal:
        """On the plan as it is now; a book without that plan is never taken."""
        plan = self._files.book.plan_for(self._plan, self._workspace)
        ready = self._ready
        if ready is not None and ready.plan is plan:
            return ready
        assert plan is not None  # noqa: S101 - as the files promise
        self._ready = ready = Principal(
            workspace=self._workspace,
            plan=plan,
            key_id=SIDECAR_KEY_ID,
            models=None,
            # Nobody's: a private fleet without its key must not be sent another's.
            api_key=Secret(SIDECAR_KEY_ID),
            is_own_key=False,
        )
        return ready


async def _stored(keys: StoredKeys, digest: str) -> KeyRecord | None:
    try:
        # Without a task switch where the answer is remembered.
        return await keys.find(digest)
    except KeysUnavailable as error:
        raise StoreUnavailable(
            "The gateway cannot look up API keys at the moment; try again.",
            retry_after_ms=error.retry_after_ms,
            is_retryable=True,
        ) from error


def _key_in(authorization: bytes | None) -> str:
    """
    The key of `Authorization: Bearer KEY`, or of the bare form LLMTune also takes.
    """
    if not authorization:
        raise InvalidApiKey(
            "You didn't provide an API key. Provide it in an Authorization header as"
            " 'Bearer YOUR_KEY'."
        )
    scheme, _, rest = authorization.strip().partition(b" ")
    key = rest.strip() if scheme.lower() == b"bearer" else authorization.strip()
    if len(key) > MAX_KEY_CHARS or not _IS_SOUND(key):
        raise _incorrect()
    return key.decode("ascii")


def _incorrect(digest: str | None = None) -> InvalidApiKey:
    # Not even a part of the key is repeated: error texts end up in logs.
    error = InvalidApiKey("Incorrect API key provided.")
    error.key_id = digest and digest[:KEY_ID_CHARS]
    return error
