"""Making a shape: its table published, its snapshot taken and stitched to the replication stream, its file filled.

Shapes of one table that wait at the same time share a transaction (`together`): one snapshot, one mark, their COPYs in
one message. A shape is opened with that mark when its own COPY begins; until then its changes are buffered, so that it
can begin anew in a transaction of its own when another one's COPY fails or is slow.

Invariants: the shape is routed to before its snapshot is taken; no transaction is both in the snapshot and in the log,
and none is in neither; rows go to disk as they come, never more than a block in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial

from switchgear_shapes.creation_state import Creation, NotPlaced, SessionWatch, Shared
from switchgear_shapes.definition import Definition
from switchgear_shapes.errors import snapshot_failed
from switchgear_shapes.filling import Filling
from switchgear_shapes.flushing import flushed
from switchgear_shapes.ingest import Ingest
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.store import Store
from switchgear_shapes.partitions import Partitions, Tree, trees_of, trees_query
from switchgear_shapes.postgres.pool import Pool
from switchgear_shapes.postgres.session import ConnectionLost, PostgresError, Session
from switchgear_shapes.relations import Relation
from switchgear_shapes.replication.conversation import parse_lsn
from switchgear_shapes.replication.publication import Publication
from switchgear_shapes.snapshot import SnapshotMark, begin_statements, copy_statement
from switchgear_shapes.snapshot_errors import SchemaChanged, disk_full, failure_of
from switchgear_shapes.subqueries.feed import Feed
from switchgear_shapes.subqueries.plan import Plan, plan
from switchgear_shapes.subqueries.queries import header_fields
from switchgear_shapes.subqueries.steps import Steps
from switchgear_shapes.together import Line

MARK_SECONDS = 10.0
LOCK_SECONDS = 5
STITCH_ATTEMPTS = 100
SHARED_CHARACTERS = 4000
"""A longer clause has a transaction of its own."""
LINES_LIMIT = 1000


class Creator:
    """Runs creations; each ends with a complete snapshot or with the shape dropped and its `failure` set."""

    def __init__(
        self,
        store: Store,
        ingest: Ingest,
        steps: Steps,
        snapshots: Pool,
        admin: Pool,
        publication: Publication,
        partitions: Partitions,
        threshold: int,
    ) -> None:
        self._store = store
        self._partitions = partitions
        self._ingest = ingest
        self._steps = steps
        self._snapshots = snapshots
        self._admin = admin
        self._publication = publication
        self._threshold = threshold
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: set[Creation] = set()
        self._lines: OrderedDict[tuple[int, str], Line[Creation]] = OrderedDict()
        self._due: list[Line[Creation]] = []
        self.created = 0
        self.failed = 0
        self.transactions = 0
        self.seconds = 0.0
        self.on_created: Callable[[float], None] = lambda seconds: None
        """Called with the time that a creation took."""

    def start(self, shape: Shape, relation: Relation) -> None:
        """Begin to make a registered shape of the table that `relation` describes."""
        creation = Creation(shape, relation)
        self._under_way.add(creation)
        if not _shares(shape.definition):
            self._run(self._alone(creation))
            return
        if not self._due:
            asyncio.get_running_loop().call_soon(self._begin_due)
        line = self._line(relation)
        line.waiting.append(creation)
        if line not in self._due:
            self._due.append(line)

    async def stop(self) -> None:
        """Abandon what is under way; such shapes do not survive the process."""
        self._under_way.clear()
        for line in self._lines.values():
            line.waiting.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def running(self) -> int:
        return len(self._under_way)

    # -- who begins when --

    def _line(self, relation: Relation) -> Line[Creation]:
        """Where the shapes of the table, as it is now, wait."""
        key = (relation.oid, relation.stamp)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line()
            oldest = next(iter(self._lines))
            if len(self._lines) > LINES_LIMIT and self._lines[oldest].idle:
                del self._lines[oldest]
        self._lines.move_to_end(key)
        return line

    def _begin_due(self) -> None:
        """Those that came in the same turn of the loop begin together."""
        lines, self._due = self._due, []
        for line in lines:
            self._begin(line)

    def _begin(self, line: Line[Creation]) -> None:
        while taken := line.take():
            self._run(self._share(Shared(taken, line)))

    def _again(self, creation: Creation, line: Line[Creation]) -> None:
        """In a transaction of its own."""
        line.running += 1
        self._run(self._share(Shared([creation], line)))

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _made(self, creation: Creation) -> None:
        """The shape is whole, and durable."""
        if creation in self._under_way:
            self._under_way.discard(creation)
            self.created += 1
            taken = time.monotonic() - creation.started
            self.seconds += taken
            self.on_created(taken)

    def _failed(self, creation: Creation, error: Exception) -> None:
        self._under_way.discard(creation)
        self.failed += 1
        shape = creation.shape
        failure = failure_of(shape, error)
        shape.snapshot.fail(failure)
        self._store.drop(shape, f"its snapshot failed: {type(error).__name__ if failure.status == 409 else failure}")

    # -- several in one transaction --

    async def _share(self, shared: Shared) -> None:
        """Make shapes of one table. What fails one of them, or makes it slow, does that to no other one."""
        definition = shared.left[0].shape.definition
        try:
            if self._store.full:
                raise disk_full()
            await self._publication.ensure(definition.oid, definition.schema, definition.table)
            async with self._snapshots.session() as session:
                await self._open_shared(shared, session)
                watch = SessionWatch(session, partial(self._part, shared))
                try:
                    await self._copy_shared(shared, session, watch)
                except (ConnectionLost, PostgresError) as error:
                    raise watch.reason(error) from None
                finally:
                    watch.stop()
            shared.ended(watch.ticks)
        except Exception as error:
            self._broken(shared, error)
        finally:
            self._begin(shared.line)

    async def _open_shared(self, shared: Shared, session: Session) -> None:
        """Begin the transaction: one snapshot for all of them."""
        for creation in shared.left:
            if creation.registered is None and creation.shape.alive:
                creation.registered = self._ingest.register(creation.shape)

        async def placed(mark: SnapshotMark) -> bool:
            for creation in [c for c in shared.left if not c.shape.alive]:
                shared.left.remove(creation)
                self._failed(creation, SchemaChanged())
            shared.mark = mark
            return not shared.left or self._open(shared.left[0], mark)

        await self._stitch(shared.left[0], session, placed)

    def _open(self, creation: Creation, mark: SnapshotMark) -> bool:
        assert creation.registered is not None
        return self._ingest.open(creation.shape, mark, creation.registered)

    async def _copy_shared(self, shared: Shared, session: Session, watch: SessionWatch) -> None:
        """One COPY after the other, asked for in one message, and the end of the transaction."""
        if not shared.left:
            await session.query("ROLLBACK")
            return
        assert shared.mark is not None
        shared.copying = True
        statements = [copy_statement(creation.shape.definition, creation.relation) for creation in shared.left]
        watch.expect()
        await session.start_copy("; ".join([*statements, "ROLLBACK"]))
        while True:
            await self._fill(shared.left[0], session, watch)
            del shared.left[0]
            if not shared.left:
                break
            if not shared.left[0].shape.alive:
                raise SchemaChanged
            if not self._open(shared.left[0], shared.mark):
                raise NotPlaced
            watch.expect()
            await session.next_copy()
        if shared.parted:
            await session.cancel_and_close()
        else:
            await session.end_copies()

    def _part(self, shared: Shared) -> None:
        """It takes long: those behind the one that is being copied go on without it."""
        shared.let_go()
        others, shared.left[1:] = shared.left[1:], []
        shared.parted = bool(others)
        for creation in others:
            self._again(creation, shared.line)
        self._begin(shared.line)

    def _broken(self, shared: Shared, error: Exception) -> None:
        """Before the first COPY what went wrong concerns all of them, later the one that was being copied."""
        shared.let_go()
        left, shared.left = shared.left, []
        concerned = len(left) if not shared.copying else 0 if isinstance(error, NotPlaced) else 1
        for creation in left[:concerned]:
            self._failed(creation, error)
        for creation in left[concerned:]:
            self._again(creation, shared.line)

    async def _fill(self, creation: Creation, session: Session, watch: SessionWatch) -> None:
        """The rows of the COPY that has begun, and what makes the shape whole."""
        filling = Filling(creation.shape, self._store, self._threshold)
        try:
            await filling.take(session, watch.seen)
            small = filling.small
            if small:
                filling.finish_small(partial(self._made, creation))
        except BaseException:
            filling.close()
            raise
        if small:
            filling.close()
        else:
            self._run(self._finish(creation, filling))

    async def _finish(self, creation: Creation, filling: Filling) -> None:
        try:
            await filling.finish_large(partial(self._made, creation))
        except Exception as error:
            self._failed(creation, error)
        finally:
            filling.close()

    # -- one in a transaction of its own --

    async def _alone(self, creation: Creation) -> None:
        definition = creation.shape.definition
        try:
            if self._store.full:
                raise disk_full()
            await self._publication.ensure(definition.oid, definition.schema, definition.table)
            made = plan(definition.where) if definition.where is not None and definition.where.subqueries else None
            feeds = {} if made is None else await self._steps.feeds.prepare(made)
            try:
                await self._take(creation, made, feeds)
            finally:
                self._steps.feeds.done_with(feeds)
        except Exception as error:
            self._failed(creation, error)

    async def _take(self, creation: Creation, made: Plan | None, feeds: dict[int, Feed]) -> None:
        """The snapshot itself. `feeds` are what the plan of a filter with subqueries asks."""
        shape, definition = creation.shape, creation.shape.definition
        async with self._snapshots.session() as session:
            tree = await _tree(definition.oid, session) if definition.partitioned else {}
            if definition.partitioned:
                self._partitions.add(definition.oid, tree)
            if not shape.alive:
                raise SchemaChanged
            if made is None:
                creation.registered = self._ingest.register(shape)
                await self._stitch(creation, session, partial(self._open_alone, creation))
            else:
                follower = self._steps.register(shape, made, feeds)
                await self._stitch(creation, session, partial(self._steps.open, follower))
            if tree.keys() != (await _tree(definition.oid, session) if definition.partitioned else {}).keys():
                raise SchemaChanged
            if definition.changes_only:
                await session.query("ROLLBACK")
                Filling(shape, self._store, self._threshold).finish_small(partial(self._made, creation))
            else:
                await self._copy(creation, session)

    async def _open_alone(self, creation: Creation, mark: SnapshotMark) -> bool:
        return self._open(creation, mark)

    async def _stitch(
        self,
        creation: Creation,
        session: Session,
        placed: Callable[[SnapshotMark], Awaitable[bool]],
    ) -> None:
        """Open the snapshot's transaction, and tell what it sees. Raises SchemaChanged, Broken."""
        for _ in range(STITCH_ATTEMPTS):
            try:
                rows = await session.query_limited(
                    begin_statements(creation.shape.definition, creation.relation, LOCK_SECONDS), MARK_SECONDS
                )
            except TimeoutError:
                raise snapshot_failed("The database did not begin a snapshot in time") from None
            seen, lsn, stamp, on_disk = rows[0]
            if stamp != creation.relation.stamp:
                raise SchemaChanged
            mark = SnapshotMark.parse(seen or "", parse_lsn(lsn or ""))
            await flushed(mark, on_disk, self._admin)
            if await placed(mark):
                self.transactions += 1
                return
            # A commit that the stream already had is not visible yet: it will be in a moment.
            await session.query("ROLLBACK")
            await asyncio.sleep(0.05)
        raise snapshot_failed("A transaction that is replicated already does not become visible; is a standby stuck?")

    async def _copy(self, creation: Creation, session: Session) -> None:
        """Fill the snapshot, and end the transaction."""
        definition = creation.shape.definition
        watch = SessionWatch(session)
        try:
            fields = header_fields(definition, creation.shape.handle)
            watch.expect()
            await session.start_copy(copy_statement(definition, creation.relation, fields) + "; ROLLBACK")
            await self._fill(creation, session, watch)
            await session.end_copies()
        except (ConnectionLost, PostgresError) as error:
            raise watch.reason(error) from None
        finally:
            watch.stop()


def _shares(definition: Definition) -> bool:
    """Whether the shape may share its transaction with others of its table."""
    if definition.partitioned or definition.changes_only:
        return False
    where = definition.where
    return where is None or (not where.subqueries and len(where.sql) <= SHARED_CHARACTERS)


async def _tree(root: int, session: Session) -> Tree:
    return trees_of([root], await session.query(trees_query([root])))[root]
