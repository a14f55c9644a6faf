//! The meaning of the fields that `Mesh` and `Telemetry` share.

use crate::telemetry::AccessLogs;

/// Reads access logs.
pub(super) fn access_logs(spec: &heddle_crds::AccessLogs) -> AccessLogs {
    let share = spec.percent.of_ten_thousand();
    match &spec.failures {
        Some(failures) => AccessLogs {
            share,
            failures: failures.percent.of_ten_thousand().max(share),
            from_status: failures.from_status,
        },
        None => AccessLogs::alike(share),
    }
}
