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
    /// Its text, with placeholders.
    pub sql: &'static str,
}

/// Every step, in order.
pub const STEPS: &[Step] = &[
    Step { version: 1, name: "tables", sql: include_str!("../sql/0001_tables.sql") },
    Step { version: 2, name: "fence_and_partitions", sql: include_str!("../sql/0002_fence_and_partitions.sql") },
    Step { version: 3, name: "commit", sql: include_str!("../sql/0003_commit.sql") },
    Step { version: 4, name: "jobs", sql: include_str!("../sql/0004_jobs.sql") },
    Step { version: 5, name: "rare_rows", sql: include_str!("../sql/0005_rare_rows.sql") },
    Step { version: 6, name: "verbs", sql: include_str!("../sql/0006_verbs.sql") },
    Step { version: 7, name: "schedules", sql: include_str!("../sql/0007_schedules.sql") },
    Step { version: 8, name: "inbox", sql: include_str!("../sql/0008_inbox.sql") },
    Step { version: 9, name: "retention", sql: include_str!("../sql/0009_retention.sql") },
];

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
            assert!(!step.for_schema(&Schema::default()).contains("${"), "{}", step.name);
        }
    }
}
