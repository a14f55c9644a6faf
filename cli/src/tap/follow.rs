//! Asks one replica again and again, until the tap is over.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use heddle_xds_types::tap::{PATH, TapAnswer, TapRequest};
use http::StatusCode;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cluster::{self, ClusterArgs};
use crate::replicas::{Failure, Session, Way};

/// May tap, and nothing else: for callers without a token in their kubeconfig.
pub(super) const TAPPER: &str = "heddle-tapper";
/// The time by which the tap of a replica may last longer than the command, in seconds.
pub(super) const MARGIN: u64 = 10;
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// The time to end the tap at a replica. Without that it ends some seconds later by itself.
const GOODBYE: Duration = Duration::from_secs(2);

/// News of a replica.
#[derive(Debug)]
pub(super) enum News {
    /// An answer.
    Answer(TapAnswer),
    /// It cannot be asked now.
    Away(String),
    /// It refuses the tap.
    Refused(String),
}

/// A replica.
#[derive(Clone)]
pub(super) enum Replica {
    /// A pod.
    Pod(ClusterArgs, String),
    /// A standalone control plane, by its socket.
    Local(PathBuf),
}

impl Replica {
    /// Its name in messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Pod(_, name) => name.clone(),
            Self::Local(socket) => socket.display().to_string(),
        }
    }

    /// A new connection has a new token: the one before may have run out.
    async fn session(&self) -> Result<Session> {
        match self {
            Self::Pod(cluster, name) => Way::of(cluster, TAPPER).await?.session(name).await,
            Self::Local(socket) => Session::local(socket).await,
        }
    }
}

/// Follows a tap at a replica until `over`, and ends it there.
pub(super) async fn follow(
    replica: Replica,
    mut request: TapRequest,
    until: Instant,
    news: mpsc::Sender<(String, News)>,
    over: CancellationToken,
) {
    let name = replica.name();
    let left = until.saturating_duration_since(Instant::now());
    // The command ends before its lease does: the last answer has the counts.
    request.seconds = left.as_secs() + MARGIN;
    let mut session = None;
    let asking = async {
        loop {
            let event = match ask(&replica, &mut session, &request).await {
                Ok(answer) => News::Answer(answer),
                Err(Failure::Refused(status, text)) if is_final(status) => {
                    News::Refused(explained(status, &text, &request.namespace))
                }
                Err(failure) => {
                    session = None;
                    let text = match failure {
                        Failure::Refused(status, text) => format!("it answers {status}: {text}"),
                        Failure::Broken(error) => cluster::explain(&error),
                    };
                    let away = (name.clone(), News::Away(text));
                    let _ = news.send(away).await;
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let last = matches!(event, News::Refused(_));
            if last {
                let _ = news.send((name.clone(), event)).await;
                return true;
            }
            if news.send((name.clone(), event)).await.is_err() {
                return false;
            }
        }
    };
    let refused = tokio::select! {
        refused = asking => refused,
        () = over.cancelled() => false,
    };
    if refused {
        return;
    }
    request.end = true;
    // The connection of a question that was given up is closed.
    session = None;
    let ending = ask(&replica, &mut session, &request);
    // It is a lease: without a goodbye it runs out.
    let _ = tokio::time::timeout(GOODBYE, ending).await;
}

async fn ask(
    replica: &Replica,
    session: &mut Option<Session>,
    request: &TapRequest,
) -> Result<TapAnswer, Failure> {
    let broken = |error: serde_json::Error| Failure::Broken(error.into());
    let body = Bytes::from(serde_json::to_vec(request).map_err(broken)?);
    let open = match session.take() {
        Some(open) => open,
        None => replica.session().await.map_err(Failure::Broken)?,
    };
    let answer = session.insert(open).post(PATH, body).await?;
    serde_json::from_slice(&answer).map_err(broken)
}

/// Whether asking again changes nothing.
fn is_final(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::UNPROCESSABLE_ENTITY
    )
}

fn explained(status: StatusCode, text: &str, namespace: &str) -> String {
    match status {
        StatusCode::FORBIDDEN => {
            format!("{text}; bind yourself to ClusterRole heddle-tap in namespace {namespace}")
        }
        StatusCode::NOT_FOUND => {
            "the control plane is of a version without taps; upgrade it".to_owned()
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_REQUEST => text.to_owned(),
        _ => format!("it answers {status}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_its_fix() {
        let text = explained(StatusCode::FORBIDDEN, "the right is missing", "shop");
        assert_eq!(
            text,
            "the right is missing; bind yourself to ClusterRole heddle-tap in namespace shop"
        );
        assert!(is_final(StatusCode::FORBIDDEN) && !is_final(StatusCode::UNAUTHORIZED));
    }
}
