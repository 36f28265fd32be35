-- The jobs, for people. The owner knows more of those that are `active`: they are in its memory.
CREATE VIEW ${schema}.jobs AS
SELECT
    j.id,
    q.name AS queue,
    t.name AS task,
    CASE
        WHEN o.verdict = 1 THEN 'succeeded'
        WHEN o.verdict = 2 THEN 'failed'
        WHEN o.verdict = 3 THEN 'cancelled'
        WHEN p.job IS NOT NULL THEN 'parked'
        ELSE 'active'
    END AS state,
    j.priority,
    j.args,
    j.lock,
    j.queueing_lock,
    j.created_at,
    coalesce(j.due_at, j.created_at) AS due_at,
    o.delivery AS last_delivery,
    o.attempt AS attempts,
    o.reason,
    o.error_kind,
    o.error_message,
    o.started_at,
    o.finished_at,
    o.next_due_at,
    j.metadata
FROM ${schema}.job j
JOIN ${schema}.queue q ON q.number = j.queue
JOIN ${schema}.task t ON t.number = j.task
LEFT JOIN ${schema}.parked p ON p.job = j.id
LEFT JOIN LATERAL (
    SELECT * FROM ${schema}.outcome n WHERE n.job = j.id ORDER BY n.delivery DESC LIMIT 1
) o ON true;

REVOKE ALL ON ${schema}.jobs FROM PUBLIC;
