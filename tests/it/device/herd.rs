//! Five hundred boxes whose power comes back in one second (threat 20): what reaches the endpoint, second by second, and when
//! they have joined. Real state machines and the real endpoint; time is simulated, so that the result is always the same.

use super::*;
use forge::device::effects::NetError;
use forge::device::{Device, Pacer, turn};
use forge::fleet::Settings;
use sim::Fate;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const BOXES: usize = 500;
/// What the endpoint takes: all of them in a hundred seconds.
const CLAIMS_PER_S: u32 = 5;

struct Herd {
    /// Calls that reached the endpoint, in each second.
    calls: Vec<u32>,
    /// When each box had joined, in seconds, sorted.
    joined: Vec<f64>,
}

/// Lets the herd loose, with that splay in its bundles, before an endpoint that is down for so long.
fn let_loose(splay_s: u32, down: Duration) -> Herd {
    let fleet = SimFleet::new(Settings { claims_per_s: CLAIMS_PER_S, ..Settings::default() });
    let clock = Rc::new(Cell::new(Duration::ZERO));
    let mut boxes: Vec<_> = (0..BOXES)
        .map(|n| {
            let (name, serial) = (format!("shop-{n}"), format!("S{n}"));
            let bundle =
                fleet.keys.own_bundle_with(&name, &serial, |document| document.policy.splay_s = splay_s);
            let mut sim = SimBox::new(&fleet, &serial, Some(files(&bundle)));
            let (calls, now) = (Rc::new(RefCell::new(vec![])), clock.clone());
            sim.arrivals = Some(calls.clone());
            sim.weather = Box::new(move |_, _| match now.get() < down {
                true => Fate::Fails(NetError::Unreachable("it is down".into())),
                false => Fate::Through,
            });
            (Device::new(sim), Pacer::default(), calls)
        })
        .collect();
    // Always the box that is furthest behind: nobody's call comes before one that was made earlier.
    let mut due: BinaryHeap<_> = (0..BOXES).map(|n| Reverse((Duration::ZERO, n))).collect();
    let mut joined = vec![];
    while let Some(Reverse((time, n))) = due.pop() {
        clock.set(time);
        let (device, pacer, _) = &mut boxes[n];
        let step = turn(device, pacer);
        let time = device.io().time;
        assert!(time < 2 * HOUR, "shop-{n} is still out: {:?}", device.io().last_view);
        if finished(device.io(), &step) {
            let waited = device.io().waits.last().copied().unwrap_or_default(); // until it looks again
            joined.push((time - waited).as_secs_f64());
        } else {
            due.push(Reverse((time, n)));
        }
    }
    joined.sort_by(f64::total_cmp);
    let mut calls = vec![];
    for at in boxes.iter().flat_map(|(_, _, times)| times.borrow().clone()) {
        let second = at.as_secs() as usize;
        calls.resize(calls.len().max(second + 1), 0);
        calls[second] += 1;
    }
    assert_eq!(fleet.count("SELECT count(*) FROM device WHERE state = 'joined'"), BOXES as i64);
    assert_eq!(fleet.count("SELECT count(DISTINCT node) FROM device"), BOXES as i64);
    Herd { calls, joined }
}

/// How much the series repeats itself after `lag` seconds, beside its trend: 1 for one that does so exactly.
fn autocorrelation(series: &[f64], lag: usize) -> f64 {
    const AROUND: usize = 15;
    let trend = |at: usize| {
        let near = &series[at.saturating_sub(AROUND)..(at + AROUND).min(series.len())];
        near.iter().sum::<f64>() / near.len() as f64
    };
    let noise: Vec<f64> = series.iter().enumerate().map(|(at, n)| n - trend(at)).collect();
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    product(&noise[..noise.len() - lag], &noise[lag..]) / product(&noise, &noise)
}

#[test]
fn threat_20_five_hundred_boxes_at_eight_in_the_morning() {
    // Until an endpoint is up and a splay is over, there is nothing to see; without either, the first minute shows what a
    // herd is, and the rest how it takes no for an answer.
    for (splay_s, down_s, from, until) in [(300, 0, 0, 420.0), (0, 900, 900, 1500.0), (0, 0, 60, 300.0)] {
        let herd = let_loose(splay_s, Duration::from_secs(down_s));
        let calls: u32 = herd.calls.iter().sum();
        let series: Vec<f64> = herd.calls[from..].iter().map(|n| f64::from(*n)).collect();
        let peak = series.iter().copied().fold(0.0, f64::max);
        let p99 = herd.joined[BOXES * 99 / 100];
        let step = (2..60).map(|lag| autocorrelation(&series, lag)).fold(0.0, f64::max);
        println!(
            "threat 20: splay {splay_s} s, down for {down_s} s: {calls} calls, at most {} and then {peak} in a second, p99 {p99:.0} s, in step {step:.2}",
            herd.calls.iter().max().unwrap(),
        );
        assert!(calls < 10 * BOXES as u32, "a box that joins at once makes six calls");
        assert!(peak <= 50.0, "a tenth of the herd in one second");
        assert!(p99 < until, "the last ones join after {p99:.0} s");
        assert!(step < 0.4, "the calls repeat themselves: {step:.2}");
    }
}
