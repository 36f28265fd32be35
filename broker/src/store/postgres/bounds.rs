//! How reads go by the bounds of retention: below `moved_below` only the tables of what outlived its partition count,
//! from `kept_below` on only the partitions, and in between both, but for rows that were copied.
//!
//! Each arm is ordered and limited by itself, so that each goes by its index and neither is read as a whole.

/// Below it, only what outlived its partition counts.
macro_rules! moved_below {
    () => {
        "(SELECT r.moved_below FROM retention r)"
    };
}

/// From it on, nothing has outlived its partition.
macro_rules! kept_below {
    () => {
        "(SELECT r.kept_below FROM retention r)"
    };
}

/// The plain success of one job, if it is packed, with the columns of `outcome`. The names inside must not hide those that
/// the job is named by.
macro_rules! packed_success {
    ($job:literal) => {
        concat!(
            "(SELECT ", $job, " AS job, ended.at - packed.took[found.place] * interval '1 microsecond' AS started_at,
                ended.at AS finished_at, 1 AS delivery, 1 AS attempt, 1::smallint AS verdict,
                packed.sessions[coalesce(packed.session_of[found.place], 1)] AS session, NULL::text AS reason,
                NULL::text AS error_kind, NULL::text AS error_message, NULL::text AS error_trace, NULL::text AS result,
                NULL::timestamptz AS next_due_at, NULL::text AS changed_queue, NULL::smallint AS changed_priority,
                NULL::text AS changed_lock
            FROM success packed
            CROSS JOIN LATERAL (SELECT array_position(packed.places, (", $job, " & 127)::smallint) AS place) found
            CROSS JOIN LATERAL (SELECT packed.finished_at
                - coalesce(packed.earlier[found.place], 0) * interval '1 microsecond' AS at) ended
            WHERE packed.first BETWEEN (", $job, " & -128) AND ", $job, " AND found.place IS NOT NULL)"
        )
    };
}

/// The newest outcomes of one job, as `o`: these columns (`delivery` among them), at most so many, and only those that
/// meet a condition, if there is one.
macro_rules! newest_outcomes {
    ([$($columns:tt)+], $job:literal, $limit:literal) => {
        newest_outcomes!([$($columns)+], $job, $limit, "")
    };
    ([$($columns:tt)+], $job:literal, $limit:literal, $condition:literal) => {
        concat!(
            "SELECT * FROM ((SELECT ", $($columns)+, " FROM outcome o WHERE o.job = ", $job, " AND ", $job, " >= ",
            moved_below!(), $condition, " ORDER BY o.delivery DESC LIMIT ", $limit, ") UNION ALL (SELECT ", $($columns)+,
            " FROM ", packed_success!($job), " o WHERE ", $job, " >= ", moved_below!(), $condition,
            " LIMIT 1) UNION ALL (SELECT ", $($columns)+,
            " FROM outcome_kept o WHERE o.job = ", $job, " AND ", $job, " < ", kept_below!(), " AND (", $job, " < ",
            moved_below!(), " OR NOT o.copied)", $condition, " ORDER BY o.delivery DESC LIMIT ", $limit,
            ")) u ORDER BY u.delivery DESC LIMIT ", $limit
        )
    };
}

/// The highest ids below `$1`, at most `$2`: of jobs (`id` in `job`), or of outcomes that meet a condition.
macro_rules! ids_below {
    ($column:literal, $table:literal, $condition:literal) => {
        concat!(
            "SELECT u.id FROM ((SELECT n.",
            $column,
            " AS id FROM ",
            $table,
            " n WHERE n.",
            $column,
            " < $1 AND n.",
            $column,
            " >= ",
            moved_below!(),
            $condition,
            " ORDER BY n.",
            $column,
            " DESC LIMIT $2) UNION ALL (SELECT n.",
            $column,
            " AS id FROM ",
            $table,
            "_kept n WHERE n.",
            $column,
            " < $1 AND n.",
            $column,
            " < ",
            kept_below!(),
            " AND (n.",
            $column,
            " < ",
            moved_below!(),
            " OR NOT n.copied)",
            $condition,
            " ORDER BY n.",
            $column,
            " DESC LIMIT $2)) u ORDER BY u.id DESC LIMIT $2"
        )
    };
}

/// The highest ids below `$1`, at most `$2`: of jobs of one queue (its number) where there is an index by queue, and of
/// all others.
macro_rules! ids_of_queue {
    ($queue:literal) => {
        concat!(
            "SELECT u.id FROM ((SELECT n.id FROM job n WHERE n.id < $1 AND n.id >= ",
            moved_below!(),
            " AND n.id >= (SELECT indexed_below()) ORDER BY n.id DESC LIMIT $2) UNION ALL (SELECT n.id FROM ids_of_queue(",
            $queue,
            ", $1, $2) n (id)) UNION ALL (SELECT n.id FROM job_kept n WHERE (n.queue, n.id) < (",
            $queue,
            ", $1) AND n.queue >= ",
            $queue,
            " AND (n.id < ",
            moved_below!(),
            " OR NOT n.copied AND n.id < ",
            kept_below!(),
            ") ORDER BY n.queue DESC, n.id DESC LIMIT $2)) u ORDER BY u.id DESC LIMIT $2"
        )
    };
}

pub(super) use {ids_below, ids_of_queue, kept_below, moved_below, newest_outcomes, packed_success};
