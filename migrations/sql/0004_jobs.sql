-- The jobs, for people. None starts before it is due (C7); of others that are in its memory only the owner knows more,
-- so here they are `active`.
CREATE VIEW ${schema}.jobs AS
SELECT
    j.id,
    q.name AS queue,
    t.name AS task,
    CASE
        WHEN o.verdict = 1 THEN 'succeeded'
        WHEN o.verdict = 2 THEN 'failed'
        WHEN o.verdict = 3 THEN 'cancelled'
        WHEN d.due_at > clock_timestamp() THEN 'scheduled'
        WHEN p.job IS NOT NULL THEN 'waiting'
        ELSE 'active'
    END AS state,
    j.priority,
    j.args,
    j.lock,
    j.queueing_lock,
    j.created_at,
    d.due_at,
    o.delivery AS last_delivery,
    o.attempt AS attempts,
    o.reason,
    o.error_kind,
    o.error_message,
    o.started_at,
    o.finished_at,
    j.metadata
FROM ${schema}.job j
JOIN ${schema}.queue q ON q.number = j.queue
JOIN ${schema}.task t ON t.number = j.task
LEFT JOIN ${schema}.parked p ON p.job = j.id
LEFT JOIN LATERAL (
    SELECT * FROM ${schema}.outcome n WHERE n.job = j.id ORDER BY n.delivery DESC LIMIT 1
) o ON true
CROSS JOIN LATERAL (
    -- What came back without a time of its own was due at once.
    SELECT coalesce(o.next_due_at, CASE WHEN o.verdict > 3 THEN o.finished_at END, j.due_at, j.created_at) AS due_at
) d;

REVOKE ALL ON ${schema}.jobs FROM PUBLIC;
