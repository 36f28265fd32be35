//! The steps, embedded.

use uuid::Uuid;

use crate::Schema;

/// One numbered file of SQL.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// From 1, without a gap.
    pub version: i32,
    /// What it is about.
    pub name: &'static str,
    /// Programs that know fewer steps than this cannot work with the schema any more, once it is applied. Others can, also
    /// those of the release before, which do not know the step.
    pub serves_from: i32,
    /// Its text, with placeholders.
    pub sql: &'static str,
}

/// Every step, in order.
pub const STEPS: &[Step] = &[
    first(1, "tables", include_str!("../sql/0001_tables.sql")),
    first(2, "fence_and_partitions", include_str!("../sql/0002_fence_and_partitions.sql")),
    first(3, "commit", include_str!("../sql/0003_commit.sql")),
    first(4, "jobs", include_str!("../sql/0004_jobs.sql")),
    first(5, "rare_rows", include_str!("../sql/0005_rare_rows.sql")),
    first(6, "verbs", include_str!("../sql/0006_verbs.sql")),
    first(7, "schedules", include_str!("../sql/0007_schedules.sql")),
    first(8, "inbox", include_str!("../sql/0008_inbox.sql")),
    first(9, "retention", include_str!("../sql/0009_retention.sql")),
];

/// A step of the first release, without which no program works.
const fn first(version: i32, name: &'static str, sql: &'static str) -> Step {
    Step { version, name, serves_from: version, sql }
}

impl Step {
    /// The same for the same text, whatever the schema.
    pub fn checksum(&self) -> Uuid {
        Uuid::new_v5(&Uuid::from_u128(0x6361_6262_6167_6520_7374_6570_0000_0001), self.sql.as_bytes())
    }

    /// Its text for this schema.
    pub(crate) fn for_schema(&self, schema: &Schema) -> String {
        self.sql.replace("${schema}", &schema.quoted()).replace("${schema_name}", schema.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbered_without_a_gap_and_leave_no_placeholder() {
        for (step, version) in STEPS.iter().zip(1..) {
            assert_eq!(step.version, version);
            assert!((1..=version).contains(&step.serves_from), "{}", step.name);
            assert!(!step.for_schema(&Schema::default()).contains("${"), "{}", step.name);
        }
    }
}
