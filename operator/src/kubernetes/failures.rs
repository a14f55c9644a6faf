//! Classifies the errors of watches.

use kube::runtime::watcher;

use crate::tasks::chain;

/// Kubernetes before 1.32, or with the feature gate WatchList off, answers that `sendInitialEvents` is invalid.
pub(super) fn knows_no_streams(error: &watcher::Error) -> bool {
    // The client starts the watch, and finds the refusal in the place of its first event.
    let (watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchFailed(kube::Error::Api(status))) = error
    else {
        return false;
    };
    status.code == 422 || (status.code == 400 && status.message.contains("sendInitialEvents"))
}

/// The requested resource version is older than the history of the API server.
pub(super) fn is_gone(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchError(status) => status.code == 410,
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

/// One object cannot be read; the stream goes on.
pub(super) fn is_unreadable(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::WatchFailed(kube::Error::SerdeError(_))
    )
}

pub(super) fn report(kind: &'static str, error: &watcher::Error) {
    let text = chain(error);
    if text.contains("404")
        || text.contains("NotFound")
        || text.contains("could not find the requested resource")
    {
        tracing::error!(
            kind,
            "the API server does not know this kind: install the CRDs (config/crd); trying again until it does"
        );
    } else {
        tracing::warn!(kind, error = text, "the watch failed; trying again");
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn refused(code: u16, message: &str) -> kube::Error {
        let status = Status::failure(message, "Invalid").with_code(code);
        kube::Error::Api(Box::new(status))
    }

    #[test]
    fn an_old_api_server_and_a_forgotten_version_are_told_apart() {
        use watcher::Error::{WatchError, WatchFailed, WatchStartFailed};
        let text = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        let gone = Box::new(Status::failure("too old resource version", "Expired").with_code(410));
        for (error, streams, known) in [
            (WatchFailed(refused(422, text)), false, true),
            (WatchStartFailed(refused(422, text)), false, true),
            (WatchStartFailed(refused(400, text)), false, true),
            (WatchStartFailed(refused(400, "no")), true, true),
            (WatchFailed(refused(403, "no")), true, true),
            (WatchError(gone), true, false),
            (WatchFailed(refused(410, "gone")), true, false),
        ] {
            assert_eq!(
                (!knows_no_streams(&error), !is_gone(&error)),
                (streams, known),
                "{error}"
            );
        }
    }
}
