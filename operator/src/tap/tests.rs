use heddle_xds_types::tap::{Header, TapRow};

use super::filter::tests::request;
use super::*;

fn sidecar(workload: &str) -> ReportingSidecar {
    ReportingSidecar {
        id: format!("shop/{workload}-1").as_str().into(),
        workload: WorkloadRef::new("shop", workload),
        identity: format!("spiffe://cluster.local/ns/shop/sa/{workload}"),
    }
}

fn tapped(id: u8, workload: Option<&str>) -> TapRequest {
    TapRequest {
        id: format!("{id:032x}"),
        ..request("shop", workload)
    }
}

fn report(taps: &[u64], count: usize) -> TapReport {
    let row = TapRow {
        taps: taps.to_vec(),
        request: Some(TappedRequest {
            path: "/a?b=c".to_owned(),
            headers: vec![Header {
                name: "accept".to_owned(),
                value: "x".to_owned(),
            }],
            ..TappedRequest::default()
        }),
    };
    TapReport {
        rows: vec![row; count],
        ..TapReport::default()
    }
}

fn none(_: &str, _: &str) -> Vec<String> {
    Vec::new()
}

fn ask(taps: &Taps, now: Instant, request: &TapRequest) -> Asked {
    taps.ask_at(now, request, none).unwrap()
}

#[test]
fn a_tap_is_a_lease() {
    let (taps, now) = (Taps::default(), Instant::now());
    let cart = WorkloadRef::new("shop", "cart");
    let asked = ask(&taps, now, &tapped(1, Some("cart")));
    assert!(asked.changed && taps.covers(&cart));
    assert!(!taps.covers(&WorkloadRef::new("shop", "other")));
    assert!(!taps.covers(&WorkloadRef::new("other", "cart")));
    // Asked for again and again, it lasts.
    let later = now + LEASE / 2;
    assert!(!ask(&taps, later, &tapped(1, Some("cart"))).changed);
    assert!(taps.expire_at(now + LEASE).is_empty());
    assert_eq!(taps.expire_at(later + LEASE).len(), 1);
    assert!(!taps.covers(&cart));
    // And never longer than its time.
    for second in 0..60 {
        ask(&taps, now + Duration::from_secs(second), &tapped(2, None));
    }
    assert_eq!(taps.expire_at(now + Duration::from_secs(60)).len(), 1);
    let again = taps.ask_at(now, &tapped(2, None), none);
    assert!(matches!(again, Err(TapRefusal::Invalid(_))), "{again:?}");
    // Its owner can end it.
    ask(&taps, now, &tapped(3, None));
    let end = TapRequest {
        end: true,
        ..tapped(3, None)
    };
    assert!(ask(&taps, now, &end).changed && !taps.covers(&cart));
}

#[test]
fn agents_are_told_of_taps_that_begin_and_end() {
    let (taps, now) = (Taps::default(), Instant::now());
    let mut orders = taps.take(&sidecar("cart"), TapReport::default(), |_, _| None);
    let mut other = taps.take(&sidecar("other"), TapReport::default(), |_, _| None);
    assert!(orders.borrow_and_update().orders.is_empty());
    other.borrow_and_update();
    ask(&taps, now, &tapped(1, Some("cart")));
    assert_eq!(orders.borrow_and_update().orders.len(), 1);
    assert!(!other.has_changed().unwrap());
    // An owner that asks again changes nothing.
    ask(&taps, now, &tapped(1, Some("cart")));
    assert!(!orders.has_changed().unwrap());
    taps.expire_at(now + LEASE);
    assert!(orders.borrow_and_update().orders.is_empty());
}

#[test]
fn rows_go_to_the_taps_that_cover_the_sidecar_and_no_others() {
    let (taps, now) = (Taps::default(), Instant::now());
    ask(&taps, now, &tapped(1, Some("cart")));
    let with = TapRequest {
        headers: vec!["accept".to_owned()],
        query: true,
        ..tapped(2, None)
    };
    ask(&taps, now, &with);
    let peer = |_: &str, _: &str| Some("shop/web".to_owned());
    // A sidecar may name any tap.
    taps.take(&sidecar("other"), report(&[1, 2, 3], 1), peer);
    taps.take(&sidecar("cart"), report(&[1, 2], 1), peer);
    let of_cart = ask(&taps, now, &tapped(1, Some("cart"))).answer.rows;
    assert_eq!(of_cart.len(), 1);
    assert_eq!(
        (&*of_cart[0].pod, &*of_cart[0].workload),
        ("cart-1", "cart")
    );
    assert_eq!(of_cart[0].peer_workload.as_deref(), Some("shop/web"));
    // Another tap of the same sidecar has asked for the header and the query.
    assert_eq!(of_cart[0].request.path, "/a");
    assert!(of_cart[0].request.headers.is_empty());
    let of_all = ask(&taps, now, &with).answer.rows;
    assert_eq!(of_all.len(), 2);
    assert_eq!(of_all[1].request.path, "/a?b=c");
    assert_eq!(of_all[1].request.headers.len(), 1);
    assert!(ask(&taps, now, &with).answer.rows.is_empty());
}

#[test]
fn rows_beyond_the_bounds_are_counted() {
    let (taps, now) = (Taps::default(), Instant::now());
    ask(&taps, now, &tapped(1, None));
    let reports = MAX_ROWS / 10 + 2;
    for _ in 0..reports {
        taps.take(&sidecar("cart"), report(&[1], 10), |_, _| None);
    }
    let answer = ask(&taps, now, &tapped(1, None)).answer;
    assert_eq!((answer.rows.len(), answer.lost), (MAX_ROWS, 20));
    let counts = TapReport {
        left_out: vec![LeftOut { tap: 1, count: 5 }, LeftOut { tap: 9, count: 5 }],
        lost: 3,
        ..TapReport::default()
    };
    taps.take(&sidecar("cart"), counts, |_, _| None);
    let answer = ask(&taps, now, &tapped(1, None)).answer;
    assert_eq!((answer.left_out, answer.lost), (5, 23));
    for _ in 0..MAX_MESSAGES {
        taps.take(&sidecar("cart"), report(&[1], 1), |_, _| None);
    }
    let answer = ask(&taps, now, &tapped(1, None)).answer;
    let taken = MAX_MESSAGES as usize - reports - 1;
    assert_eq!(answer.rows.len(), taken);
    assert_eq!(answer.lost, 23 + (reports as u64 + 1));
}

#[test]
fn the_number_of_taps_is_bounded() {
    let (taps, now) = (Taps::default(), Instant::now());
    let in_namespace = |id: u8, namespace: &str| TapRequest {
        namespace: namespace.to_owned(),
        ..tapped(id, None)
    };
    for id in 0..16 {
        ask(&taps, now, &in_namespace(id, &format!("n{}", id / 4)));
    }
    for namespace in ["n0", "n9"] {
        let refused = taps.ask_at(now, &in_namespace(99, namespace), none);
        assert!(
            matches!(refused, Err(TapRefusal::TooMany(_))),
            "{refused:?}"
        );
    }
    // Those that are there go on.
    ask(&taps, now, &in_namespace(0, "n0"));
}

#[test]
fn the_number_of_a_tap_alone_gives_none_of_its_rows() {
    let (taps, now) = (Taps::default(), Instant::now());
    ask(&taps, now, &tapped(1, Some("cart")));
    for other in [
        tapped(1, None),
        TapRequest {
            namespace: "other".to_owned(),
            ..tapped(1, Some("cart"))
        },
    ] {
        let refused = taps.ask_at(now, &other, none);
        assert!(
            matches!(refused, Err(TapRefusal::Invalid(_))),
            "{refused:?}"
        );
    }
}
