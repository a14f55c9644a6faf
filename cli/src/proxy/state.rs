//! The report of a replica of the control plane about one sidecar.

use serde::{Deserialize, Serialize};

/// As in `proxies.json` and in the answer to `/debug/proxies`. Fields may be missing: the replica may be of another version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyState {
    /// `<namespace>/<pod>`.
    pub proxy: String,
    /// Whether it has a stream to that replica.
    pub connected: bool,
    /// Since when it has, or has not; seconds since 1970. None: never seen there.
    pub since: Option<u64>,
    /// Whether the pod is ready.
    pub ready: bool,
    /// Whether it runs all that it should.
    pub in_sync: bool,
    /// Resources that it should have and has not acknowledged.
    pub behind: usize,
    /// Since when it is behind; seconds since 1970.
    pub behind_since: Option<u64>,
    /// Destinations in its scope.
    pub scope: Option<usize>,
    /// Resources that it should have.
    pub resources: usize,
    /// Its rejections, with Envoy's text.
    pub refused: Vec<String>,
    /// Bytes of discovery responses to it.
    pub bytes: u64,
    /// Discovery responses to it.
    pub responses: u64,
    /// The name and version that the proxy reports, such as `envoy 1.40.0`.
    pub version: String,
    /// The identity that its certificate shows.
    pub identity: String,
}

impl ProxyState {
    /// Connected, in sync, and nothing refused.
    pub fn is_well(&self) -> bool {
        self.connected && self.behind == 0 && self.refused.is_empty()
    }

    /// How it stands, in one line without a line break.
    pub fn standing(&self, now: u64) -> String {
        let since = |time: Option<u64>| {
            time.map_or_else(String::new, |time| format!(" for {}", age(now, time)))
        };
        if !self.connected {
            return match self.since {
                Some(since) => format!("not connected for {}", age(now, since)),
                None => "never connected".to_owned(),
            };
        }
        let behind = (self.behind > 0).then(|| {
            format!(
                "behind by {} of {}{}",
                self.behind,
                self.resources,
                since(self.behind_since)
            )
        });
        let refuses = (!self.refused.is_empty())
            .then(|| format!("refuses {}", one_line(&self.refused.join("; "))));
        match (behind, refuses) {
            (None, None) => "in sync".to_owned(),
            (behind, refuses) => behind
                .into_iter()
                .chain(refuses)
                .collect::<Vec<_>>()
                .join(", "),
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// How long ago a time was, in its largest unit. Clocks differ: the future is now.
pub fn age(now: u64, time: u64) -> String {
    let seconds = now.saturating_sub(time);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected() -> ProxyState {
        ProxyState {
            connected: true,
            resources: 40,
            ..ProxyState::default()
        }
    }

    #[test]
    fn a_standing_says_since_when_and_why() {
        let standing = |state: ProxyState| state.standing(1_000);
        assert_eq!(standing(connected()), "in sync");
        assert_eq!(standing(ProxyState::default()), "never connected");
        let gone = ProxyState {
            since: Some(400),
            ..ProxyState::default()
        };
        assert_eq!(standing(gone), "not connected for 10 min");
        let behind = ProxyState {
            behind: 2,
            behind_since: Some(988),
            ..connected()
        };
        assert_eq!(standing(behind.clone()), "behind by 2 of 40 for 12 s");
        let refuses = ProxyState {
            refused: vec!["Cluster a: no\n such thing".to_owned()],
            ..behind
        };
        assert_eq!(
            standing(refuses),
            "behind by 2 of 40 for 12 s, refuses Cluster a: no such thing"
        );
    }

    #[test]
    fn ages_have_one_unit() {
        let ages = [0, 119, 120, 7_200, 172_800].map(|seconds| age(seconds, 0));
        assert_eq!(ages, ["0 s", "119 s", "2 min", "2 h", "2 d"]);
        assert_eq!(age(5, 9), "0 s", "the replica's clock is ahead");
    }

    #[test]
    fn what_an_older_replica_does_not_say_is_not_made_up() {
        let state: ProxyState =
            serde_json::from_str(r#"{"proxy": "a/b", "connected": true, "new": 1}"#).unwrap();
        assert_eq!((state.scope, state.behind_since), (None, None));
        assert!(state.is_well());
    }
}
