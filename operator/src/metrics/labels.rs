//! The values of labels that are known before the first event.

/// Reasons of refused requests for certificates.
pub(super) const CERTIFICATE_REFUSALS: [&str; 10] = [
    "busy",
    "ca",
    "csr",
    "name",
    "no_token",
    "rate",
    "source",
    "timeout",
    "token",
    "unavailable",
];

/// Reasons of discovery streams that were not admitted.
pub(super) const STREAM_REFUSALS: [&str; 6] = [
    "certificate",
    "namespace",
    "node_id",
    "not_yet",
    "pod",
    "service_account",
];

/// Outcomes of reviews by the webhook.
pub(super) const REVIEWS: [&str; 4] = ["injected", "left", "refused", "skipped"];

/// Ends of traces of changes.
pub(super) const CHANGE_TRACES: [&str; 3] = ["event_lost", "exported", "lost"];

/// Kinds of objects that the control plane writes.
pub(super) const WRITTEN: [&str; 3] = ["ConfigMap", "MutatingWebhookConfiguration", "status"];
