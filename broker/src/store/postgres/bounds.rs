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

pub(super) use {ids_below, ids_of_queue, kept_below, moved_below, newest_outcomes};
