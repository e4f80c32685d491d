"""The life of a mount: everything is built here, in one exit stack, and taken down in reverse.

The only composition root: rooms below get what they need from here as callables and Protocols. Started in
the order that teardown reverses: log, client, account's lock, journal, caches, queues, drive, control
socket, FUSE. When FUSE ends (unmounted, or SIGTERM) the queues drain up to a deadline; what remains is in
the journal, and the next mount goes on with it. A crash leaves ENOTCONN at the mount point, which the next
mount clears.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from logging.handlers import RotatingFileHandler
from pathlib import Path
from urllib.parse import urlsplit

from pictofs import imagefile, namespace
from pictofs.api.budget import Allowance, Reason, because
from pictofs.api.client import Client
from pictofs.api.credentials import Credentials
from pictofs.api.models import Dataset, Image, Organization
from pictofs.cache.content import FOLDER_NAME as CONTENT_FOLDER
from pictofs.cache.content import ContentCache
from pictofs.cache.listings import Listings
from pictofs.cache.metadata import MetadataCache
from pictofs.fs import fuse
from pictofs.fs.errnos import errno_of
from pictofs.fs.kernel import KernelCache
from pictofs.fs.overlay import overlay_of, under_way_of
from pictofs.fs.rules import Policy
from pictofs.fs.vfs import Vfs
from pictofs.fs.view import Owner, View
from pictofs.mount import accounts, daemon, desktop, draining, memory, mountinfo, notify, organization
from pictofs.mount.archive import ArchiveDesk
from pictofs.mount.control import ControlServer, MountRecord, socket_path, write_record
from pictofs.mount.draining import DrainView, nobody_looks
from pictofs.mount.handlers import Parts, Progress, build_handlers, report
from pictofs.mount.plan import Traits
from pictofs.mount.problems import MountError, sentence
from pictofs.mount.remote import DatasetNames, Queue, Service
from pictofs.mount.status import Refused, Tally, Waiting
from pictofs.mount.uploads import Selection, UploadDesk, UploadRow
from pictofs.mount.warming import Warming
from pictofs.settings import MountSettings
from pictofs.transfer.changes import ChangeQueue
from pictofs.transfer.download import Downloader
from pictofs.transfer.journal import Journal, Upload
from pictofs.transfer.lock import StateLock
from pictofs.transfer.readahead import Readahead
from pictofs.transfer.spool import JOURNAL_RESERVE_BYTES, Spool
from pictofs.transfer.upload import Uploader

log = logging.getLogger(__name__)

LOG_BYTES = 5 << 20
"""The log is turned over at this size, and one older file is kept: weeks of refusals and failures."""

CONNECTIONS = 20
"""Kept open to each host, beside those of the prefetch."""

AHEAD_PART = 8
"""The part of the image cache that may hold what nobody has read yet: the rest is what was read."""

MAX_AHEAD_BYTES = 256 << 20
"""The same in bytes, which a walk that ends has fetched in vain: sixteen files of a camera."""

SPOOL_RESERVE_BYTES = 1 << 30
"""The most that a percentage for `min-free` keeps new files from using: a large disk has room for them."""

FORGET_S = 10.0
"""The longest that `pictofs refresh` and `uploads discard` wait for the kernel to forget: it takes a fraction
of a second for 100,000 files, unless reads of them hang."""


def mount(
    settings: MountSettings,
    credentials: Credentials,
    mountpoint: Path,
    *,
    foreground: bool,
    drain_view: DrainView = nobody_looks,
) -> int:
    """Mount the drive; returns the exit status. In the background it returns once the drive answers.

    Args:
        drain_view: in the foreground, what shows the uploads that are finished after unmounting.

    Raises:
        MountError: with a sentence for the user; other exceptions are for `problems.sentence`.
    """
    _check_mountpoint(mountpoint)
    if foreground:
        _serve(settings, credentials, mountpoint, lambda: None, drain_view, foreground=True)
    else:
        daemon.serve_in_background(
            lambda ready: _serve(settings, credentials, mountpoint, ready, nobody_looks, foreground=False)
        )
    return 0


def _check_mountpoint(mountpoint: Path) -> None:
    if mountinfo.is_dead(mountpoint):
        mountinfo.detach(mountpoint, lazy=True)
    there = mountinfo.entry(mountpoint)
    if there is not None and there.is_fuse:
        raise MountError(f"{mountpoint} is mounted already; `pictofs umount {mountpoint}` takes it down.")
    if not mountpoint.exists():
        raise MountError(
            f"the mount point {mountpoint} does not exist; make it with `mkdir -p {mountpoint}`."
        )
    if not mountpoint.is_dir():
        raise MountError(f"the mount point {mountpoint} is not a folder; choose or make an empty one.")
    if any(mountpoint.iterdir()):
        raise MountError(
            f"the mount point {mountpoint} is not empty; its files would be hidden. Choose another."
        )


class _Desk(UploadDesk):
    """Files that are discarded vanish for the kernel at once, too."""

    def __init__(
        self, journal: Journal, spool: Spool, path_of: Callable[[Upload], str], kernel: KernelCache
    ) -> None:
        super().__init__(journal, spool, path_of)
        self._kernel = kernel

    def discard(self, selection: Selection) -> list[UploadRow]:
        rows = super().discard(selection)
        self._kernel.forget(row.path for row in rows)
        self._kernel.settle(FORGET_S)
        return rows


@dataclass(frozen=True, slots=True)
class _Account:
    """Whose drive it is, and where what belongs to it is kept."""

    organization: Organization
    label: str
    state: Path
    cache: Path


def _account(settings: MountSettings, credentials: Credentials, owner: Organization) -> _Account:
    host = urlsplit(credentials.base_url).netloc.replace(":", "_")
    folder = f"{host}-{owner.id}".replace("/", "_")
    return _Account(
        owner,
        f"{owner.name} on {host}",
        settings.state_dir / folder,
        settings.cache_dir / folder,
    )


def _serve(
    settings: MountSettings,
    credentials: Credentials,
    mountpoint: Path,
    ready: Callable[[], None],
    drain_view: DrainView,
    *,
    foreground: bool,
) -> None:
    """Build the drive, serve it until it is unmounted, drain, and take all down."""
    memory.prepare()
    with ExitStack() as stack:
        stack.enter_context(_logging(settings, foreground=foreground))
        try:
            mounted = _Mount(settings, credentials, mountpoint, stack)
            mounted.serve(ready)
            mounted.drain(drain_view)
        except Exception as error:
            log.error("%s", sentence(error), exc_info=settings.log_level == "debug")
            raise


class _Mount:
    """One mounted drive: its parts, and the few things that concern all of them."""

    vfs: Vfs
    _parts: Parts

    def __init__(
        self, settings: MountSettings, credentials: Credentials, mountpoint: Path, stack: ExitStack
    ) -> None:
        self._settings = settings
        self._mountpoint = mountpoint
        self._drain_timeout_s = settings.drain_timeout_s
        self._stack = stack
        self._kernel = KernelCache()

        client = self._client = stack.enter_context(
            Client(
                credentials.api_key,
                base_url=credentials.base_url,
                timeout_s=settings.request_timeout_s,
                retry_after_limit_s=settings.request_timeout_s,
                max_connections=CONNECTIONS + settings.prefetch,
            )
        )
        self._allowance = Allowance(lambda: client.budget)
        names = DatasetNames(client)
        hasty = client.with_retries(1, retry_after_limit_s=settings.request_timeout_s)
        service = self._service = Service(
            client, names, hasty=hasty, count=lambda dataset_id: self._metadata.image_count(dataset_id)
        )
        hasty_service = Service(hasty, names, hasty=hasty)
        # The queue has a patience of its own, and must hear of a rate limit at once.
        queue = Queue(client.with_retries(1, retry_after_limit_s=0), names)
        found = organization.find(
            credentials, settings.cache_dir, ask=client.organization, ask_datasets=service.datasets
        )
        account = self._account = _account(settings, credentials, found.organization)

        lock = StateLock(account.state, mount_point=str(mountpoint))
        lock.acquire()
        stack.callback(lock.release)
        self._spool = Spool(
            account.state / accounts.SPOOL_NAME,
            min_free_bytes=max(_spool_reserve_bytes(settings, account.state), JOURNAL_RESERVE_BYTES),
        )
        self._journal = Journal(account.state / accounts.JOURNAL_NAME, self._spool, lock)
        stack.callback(self._journal.close)
        self._content = ContentCache(
            account.cache / CONTENT_FOLDER,
            max_bytes=settings.cache_size_bytes,
            min_free_bytes=settings.min_free.of(_disk_bytes(account.cache)),
        )

        self._uploader = Uploader(
            self._journal,
            self._spool,
            queue,
            workers=settings.workers,
            content_type_of=imagefile.content_type_for,
            errno_of=errno_of,
            on_landed=lambda upload, image: self.vfs.landed(upload, image),
            on_archived=lambda dataset_id, image_id: self.vfs.archived(dataset_id, image_id),
        )
        self._changes = ChangeQueue(
            self._journal,
            queue,
            api=self._uploader.api,
            errno_of=errno_of,
            on_done=lambda change, became: self.vfs.done(change, became),
            on_refused=lambda change, reason: self.vfs.refused(change, reason),
        )
        metadata = self._metadata = MetadataCache(
            service,
            hasty=hasty_service,
            ttl_s=settings.metadata_ttl_s,
            only=settings.datasets,
            hidden=self._journal.hidden,
            overlay=overlay_of(self._journal),
            under_way=under_way_of(self._journal),
            may_revalidate=self._allowance.may_refresh,
            listings=Listings(account.cache / "listings"),
            listing_limit=settings.listing_limit,
            on_others_changes=self._kernel.forget,
        )
        stack.callback(metadata.close)
        if found.datasets is not None:
            metadata.take_datasets(found.datasets, found.asked_at)
        _check_datasets(settings, metadata)
        downloader = Downloader(
            self._content,
            service.open_stream,
            correct_size=metadata.correct_size,
            timeout_s=settings.request_timeout_s,
        )
        self._downloader = downloader

        def fetch_ahead(image: Image, size_bytes: int, stop: Callable[[], bool]) -> None:
            with because(Reason.PREFETCHING):
                downloader.fetch(image, size_bytes, stop)

        readahead = Readahead(
            fetch_ahead,
            lambda image: self._allowance.may_prefetch() and service.has_link(image),
            self._content.expect,
            at_once=settings.prefetch,
            room_bytes=lambda: min(MAX_AHEAD_BYTES, self._content.capacity_bytes() // AHEAD_PART),
        )
        owner = Owner(settings.uid, settings.gid, settings.umask)
        self.view = View(metadata, self._journal, owner, probe_size=service.size)
        policy = Policy(settings.read_only, settings.sync, settings.overwrite, settings.upload_wait_s)
        self.vfs = Vfs(
            organization=account.organization,
            view=self.view,
            metadata=metadata,
            content=self._content,
            downloader=downloader,
            readahead=readahead,
            journal=self._journal,
            spool=self._spool,
            changes=self._changes,
            remote=service,
            policy=policy,
            on_start=self._start,
        )
        self._archive_desk = ArchiveDesk(
            service,
            metadata,
            self.view,
            policy,
            settle=lambda dataset_id: self._changes.settle(dataset_id, "/", settings.upload_wait_s),
            gone=self.vfs.gone,
        )

    def serve(self, ready: Callable[[], None]) -> None:
        """Serve until the drive is unmounted or a signal comes."""

        def on_ready() -> None:
            log.info("%s is mounted at %s", self._account.label, self._mountpoint)
            notify.ready()
            ready()

        settings = self._settings
        fuse.mount(
            self.vfs,
            str(self._mountpoint),
            fuse.MountOptions(
                ro=settings.read_only,
                allow_other=settings.allow_other,
                default_permissions=settings.default_permissions,
            ),
            binding=settings.binding,
            on_ready=on_ready,
            kernel=self._kernel,
        )

    def _start(self) -> None:
        """What needs threads: queues and the control socket. Called when FUSE is about to serve."""
        accounts.write_note(self._account.state, self._note())
        self._spool.start()
        self._stack.callback(self._spool.stop)
        self._content.start()
        self._uploader.start()
        self._stack.callback(self._uploader.stop)
        self._changes.start()
        self._stack.callback(self._changes.stop)
        if self._settings.notices and (send := desktop.sender()) is not None:
            notices = desktop.FailureNotices(self._journal, self._path_of, send)
            self._journal.listen(notices.changed)
            notices.start()
            self._stack.callback(notices.stop)
        record = MountRecord(
            mountpoint=str(self._mountpoint),
            pid=os.getpid(),
            account=self._account.label,
            account_dir=str(self._account.state),
            started_s=time.time(),
        )
        runtime_dir = self._settings.runtime_dir
        note = write_record(runtime_dir, record)
        self._stack.callback(note.unlink, missing_ok=True)
        self._stack.enter_context(
            ControlServer(socket_path(runtime_dir, self._mountpoint), self._handlers(record))
        )

    # What the control socket is answered

    def _handlers(self, record: MountRecord) -> Mapping[str, Callable[[Mapping[str, object]], object]]:
        self._parts = Parts(
            record=record,
            journal=self._journal,
            desk=_Desk(self._journal, self._spool, self._path_of, self._kernel),
            uploader=self._uploader,
            progress=self._progress,
            budget=lambda: self._client.budget,
            cache=self._content,
            warming=Warming(
                self.view,
                self._downloader.fetch,
                self._service.has_link,
                self._settings.cache_size_bytes,
            ),
            path_of=self._path_of,
            being_written=self.vfs.being_written,
            removals=self._journal.changes.removals,
            changes=self._journal.changes.others,
            refused=lambda: [Refused(p.path, p.kind.value, p.reason) for p in self._changes.problems()],
            refresh=self._refresh,
            archive=self._archive_desk,
            traits=self._traits,
            unmount=self._unmount,
        )
        return build_handlers(self._parts)

    def _path_of(self, upload: Upload) -> str:
        return accounts.path_of(self._note())(upload)

    def _note(self) -> accounts.AccountNote:
        """What the account and its datasets are called, for those who look when nothing is mounted."""
        names = {dataset.id: name for name, dataset in self._metadata.datasets().items()}
        return accounts.AccountNote(self._account.label, names)

    def _progress(self) -> Progress:
        status = self._uploader.status()
        pause = status.waiting
        return Progress(
            landed=Tally(status.landed_files, status.landed_bytes),
            rate_bytes_per_s=status.rate_bytes_per_s,
            waiting=None
            if pause is None
            else Waiting(
                pause.reason,
                pause.since_ns / 1e9,
                None if pause.until_ns is None else pause.until_ns / 1e9,
            ),
        )

    def _traits(self) -> Traits:
        datasets = self._metadata.datasets().items()
        throughput = self._uploader.status().throughput
        return Traits(
            read_only=self._settings.read_only,
            overwrite=self._settings.overwrite,
            frozen=tuple(name for name, dataset in datasets if dataset.is_frozen),
            bytes_per_s=throughput.bytes_per_s if throughput else None,
            files_per_s=throughput.files_per_s if throughput else None,
        )

    def _refresh(self, path: str) -> None:
        """The service is asked at the next look, and the kernel asks the drive."""
        wanted = namespace.split_local(path)[:1]
        known = [
            f"{name}/{place}" if place else name
            for name, dataset in self._metadata.known_datasets().items()
            for place in self._metadata.known_paths(dataset.id)
            if wanted in ([], [name])
        ]
        self.vfs.refresh(path)
        self._kernel.forget(known)
        self._kernel.settle(FORGET_S)

    def _unmount(self, drain_timeout_s: float) -> None:
        self._drain_timeout_s = drain_timeout_s
        mountinfo.detach(self._mountpoint)

    # The end

    def drain(self, view: DrainView) -> None:
        """Finish what is on its way; then say what remains."""
        draining.drain(self._uploader.drain, lambda: report(self._parts), self._drain_timeout_s, view)
        accounts.write_note(self._account.state, self._note())
        left = replace(report(self._parts), mounted=False)
        if left.safe:
            log.info("unmounted; everything is on the server")
        else:
            log.warning("unmounted. %s It is kept in %s.", left.headline(time.time()), self._account.state)


def _spool_reserve_bytes(settings: MountSettings, folder: Path) -> int:
    """What new files leave free on the spool's disk."""
    share = settings.min_free
    reserve_bytes = share.of(_disk_bytes(folder))
    return min(reserve_bytes, SPOOL_RESERVE_BYTES) if share.percent else reserve_bytes


def _disk_bytes(folder: Path) -> int:
    """The size of the disk that a folder is, or will be, on."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    disk = os.statvfs(there)
    return disk.f_blocks * disk.f_frsize


def _check_datasets(settings: MountSettings, metadata: MetadataCache) -> None:
    def is_shown(name: str, datasets: Mapping[str, Dataset]) -> bool:
        return any(name in (dataset.name, dataset.id) for dataset in datasets.values())

    shown = metadata.datasets()
    if not all(is_shown(name, shown) for name in settings.datasets):
        shown = metadata.ask_datasets()  # it may be younger than what is on the disk
    for name in settings.datasets:
        if not is_shown(name, shown):
            raise MountError(
                f"there is no dataset {name!r} in this organization; leave --dataset out to see all."
            )


@contextmanager
def _logging(settings: MountSettings, *, foreground: bool) -> Iterator[None]:
    """Log to standard error in the foreground, else to a file that is turned over."""
    handler: logging.Handler
    if settings.log_file is None and foreground:
        handler = logging.StreamHandler(sys.stderr)
    else:
        path = settings.log_file or settings.state_dir / "pictofs.log"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = RotatingFileHandler(
            path, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace"
        )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("pictofs")
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
