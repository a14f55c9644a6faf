//! The taps that this sidecar serves: which requests each of them wants, and how many a second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use heddle_xds_types::account_of;
use heddle_xds_types::edges::Reporter;
use heddle_xds_types::tap::{
    Header, LeftOut, MAX_HEADERS, MAX_ORDERS, MAX_PER_SECOND, MAX_SECONDS, Sides, TapCaller,
    TapOrder, TapRow,
};

use super::request::Seen;

const SECOND: Duration = Duration::from_secs(1);

/// One tap.
struct Active {
    order: TapOrder,
    /// It ends by itself then.
    until: Instant,
    /// The rows of a second that began then.
    counted: (Instant, u32),
}

/// The taps, and the requests that were too many for them.
pub(super) struct Orders {
    /// The identity of this sidecar.
    own: String,
    all: Vec<Active>,
    left_out: BTreeMap<u64, u64>,
}

impl Orders {
    pub(super) fn new(own: String) -> Self {
        Self {
            own,
            all: Vec::new(),
            left_out: BTreeMap::new(),
        }
    }

    /// Takes the orders of the control plane in the place of those before.
    pub(super) fn take(&mut self, orders: Vec<TapOrder>, now: Instant) {
        let before = std::mem::take(&mut self.all);
        let counted = |id: u64| {
            let known = before.iter().find(|active| active.order.id == id);
            known.map_or((now, 0), |active| active.counted)
        };
        let orders = orders.into_iter().take(MAX_ORDERS);
        self.all = orders
            .map(|order| Active {
                until: now
                    + Duration::from_millis(order.remaining_ms)
                        .min(Duration::from_secs(MAX_SECONDS)),
                counted: counted(order.id),
                order,
            })
            .collect();
    }

    /// Whether no tap is left.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        self.all.retain(|active| now < active.until);
        self.all.is_empty()
    }

    /// Returns the request with the taps that want it, with the headers and the query that some of them asked for.
    pub(super) fn row(&mut self, seen: Seen, now: Instant) -> Option<TapRow> {
        let mut row = TapRow::default();
        let (mut headers, mut query) = (Vec::new(), false);
        for active in &mut self.all {
            if now >= active.until || !wants(&active.order, &seen, &self.own) {
                continue;
            }
            if !active.has_room(now) {
                *self.left_out.entry(active.order.id).or_default() += 1;
                continue;
            }
            row.taps.push(active.order.id);
            query |= active.order.query;
            headers.extend(active.order.headers.iter().take(MAX_HEADERS));
        }
        if row.taps.is_empty() {
            return None;
        }
        let asked = |header: &Header| headers.iter().any(|name| **name == header.name);
        let mut request = seen.request;
        request.headers = seen.headers.into_iter().filter(asked).collect();
        if query {
            request.path = seen.path_with_query;
        }
        row.request = Some(request);
        Some(row)
    }

    /// The requests that were too many since the call before.
    pub(super) fn left_out(&mut self) -> Vec<LeftOut> {
        let all = std::mem::take(&mut self.left_out).into_iter();
        all.map(|(tap, count)| LeftOut { tap, count }).collect()
    }
}

impl Active {
    /// Counts a row of this second.
    fn has_room(&mut self, now: Instant) -> bool {
        if now.duration_since(self.counted.0) >= SECOND {
            self.counted = (now, 0);
        }
        let room = self.counted.1 < self.order.per_second.min(MAX_PER_SECOND);
        self.counted.1 += u32::from(room);
        room
    }
}

fn wants(order: &TapOrder, seen: &Seen, own: &str) -> bool {
    let request = &seen.request;
    let Ok(reporter) = Reporter::try_from(request.reporter) else {
        return false;
    };
    let sides = Sides::try_from(order.sides).unwrap_or(Sides::Server);
    let status =
        order.status_to == 0 || (order.status_from..=order.status_to).contains(&request.status);
    let from = order.from.as_ref().is_none_or(|from| match reporter {
        Reporter::Source => is_caller(from, own),
        Reporter::Destination => is_caller(from, &request.peer),
    });
    sides.has(reporter)
        && status
        && from
        && (order.method.is_empty() || order.method == request.method)
        && request.path.starts_with(&order.path_prefix)
        && request.duration_us >= order.min_duration_ms.saturating_mul(1000)
}

/// Whether a SPIFFE id, or its absence, is a caller.
fn is_caller(caller: &TapCaller, id: &str) -> bool {
    if caller.outside || id.is_empty() {
        return caller.outside && id.is_empty();
    }
    account_of(id).is_some_and(|(namespace, account)| {
        let accounts = &caller.accounts;
        namespace == caller.namespace
            && (accounts.is_empty() || accounts.iter().any(|known| known == account))
    })
}

#[cfg(test)]
mod tests {
    use heddle_xds_types::tap::TappedRequest;

    use super::*;

    fn seen(path: &str, status: u32, peer: &str) -> Seen {
        let request = TappedRequest {
            reporter: Reporter::Destination.into(),
            method: "GET".to_owned(),
            path: path.to_owned(),
            status,
            duration_us: 5000,
            peer: peer.to_owned(),
            ..TappedRequest::default()
        };
        let header = |name: &str| Header {
            name: name.to_owned(),
            value: "x".to_owned(),
        };
        Seen {
            path_with_query: format!("{path}?a=b"),
            headers: vec![header("accept"), header("user-agent")],
            request,
        }
    }

    fn order(id: u64) -> TapOrder {
        TapOrder {
            id,
            per_second: 2,
            remaining_ms: 60_000,
            ..TapOrder::default()
        }
    }

    fn orders(all: Vec<TapOrder>, now: Instant) -> Orders {
        let mut orders = Orders::new("spiffe://cluster.local/ns/shop/sa/reviews".to_owned());
        orders.take(all, now);
        orders
    }

    const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

    #[test]
    fn every_part_of_a_filter_counts() {
        let caller = |namespace: &str, accounts: &[&str], outside| {
            Some(TapCaller {
                outside,
                namespace: namespace.to_owned(),
                accounts: accounts.iter().map(|name| (*name).to_owned()).collect(),
            })
        };
        let now = Instant::now();
        for (order, expected) in [
            (order(1), [true, true]),
            (
                TapOrder {
                    method: "POST".to_owned(),
                    ..order(1)
                },
                [false, false],
            ),
            (
                TapOrder {
                    path_prefix: "/api".to_owned(),
                    ..order(1)
                },
                [true, false],
            ),
            (
                TapOrder {
                    status_from: 500,
                    status_to: 599,
                    ..order(1)
                },
                [false, true],
            ),
            (
                TapOrder {
                    min_duration_ms: 6,
                    ..order(1)
                },
                [false, false],
            ),
            (
                TapOrder {
                    min_duration_ms: 5,
                    ..order(1)
                },
                [true, true],
            ),
            (
                TapOrder {
                    sides: Sides::Client.into(),
                    ..order(1)
                },
                [false, false],
            ),
            (
                TapOrder {
                    from: caller("shop", &[], false),
                    ..order(1)
                },
                [true, false],
            ),
            (
                TapOrder {
                    from: caller("shop", &["cart"], false),
                    ..order(1)
                },
                [true, false],
            ),
            (
                TapOrder {
                    from: caller("shop", &["other"], false),
                    ..order(1)
                },
                [false, false],
            ),
            (
                TapOrder {
                    from: caller("", &[], true),
                    ..order(1)
                },
                [false, true],
            ),
        ] {
            let text = format!("{order:?}");
            let mut orders = orders(vec![order], now);
            let found = [seen("/api/x", 200, CART), seen("/", 503, "")]
                .map(|seen| orders.row(seen, now).is_some());
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_second_has_so_many_rows_and_the_rest_is_counted() {
        let now = Instant::now();
        let mut orders = orders(vec![order(7)], now);
        let mut rows = |now| {
            (0..5)
                .filter(|_| orders.row(seen("/", 200, CART), now).is_some())
                .count()
        };
        assert_eq!((rows(now), rows(now + SECOND)), (2, 2));
        assert_eq!(orders.left_out(), [LeftOut { tap: 7, count: 6 }]);
        assert_eq!(orders.left_out(), []);
        // New orders begin no new second.
        orders.take(vec![order(7)], now + SECOND);
        assert_eq!(orders.row(seen("/", 200, CART), now + SECOND), None);
    }

    #[test]
    fn only_headers_and_queries_that_were_asked_for_leave() {
        let now = Instant::now();
        let with = TapOrder {
            headers: vec!["accept".to_owned()],
            query: true,
            ..order(2)
        };
        let request = orders(vec![order(1)], now).row(seen("/", 200, CART), now);
        let request = request.unwrap().request.unwrap();
        assert!(request.headers.is_empty() && request.path == "/");
        let row = orders(vec![order(1), with], now).row(seen("/", 200, CART), now);
        let row = row.unwrap();
        let request = row.request.unwrap();
        assert_eq!((row.taps, &*request.path), (vec![1, 2], "/?a=b"));
        assert_eq!(request.headers.len(), 1);
        assert_eq!(request.headers[0].name, "accept");
    }

    #[test]
    fn a_tap_ends_by_itself() {
        let now = Instant::now();
        let mut orders = orders(vec![order(1)], now);
        assert!(!orders.is_over(now + 59 * SECOND));
        assert_eq!(orders.row(seen("/", 200, CART), now + 60 * SECOND), None);
        assert!(orders.is_over(now + 60 * SECOND));
    }
}
