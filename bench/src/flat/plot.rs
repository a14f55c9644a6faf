//! The curve as a plot: SVG written by hand, the same bytes for the same figures.

use std::fmt::Write as _;

use super::{Curve, Stage};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 230.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 50.0;
/// Between lines of the grid, in MB.
const STEP: f64 = 10.0;
/// Told apart also without colors, by brightness; one for each stage.
const COLOURS: [&str; 5] = ["#999999", "#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// Memory over the size of the mesh, one line for each stage.
pub fn svg(curve: &Curve) -> String {
    let scale = Scale::of(curve);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {HEIGHT:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    grid(&mut out, curve, &scale);
    let mut labels = Vec::new();
    for (stage, color) in Stage::ALL.into_iter().zip(COLOURS) {
        let points: Vec<(f64, f64)> = curve
            .meshes()
            .into_iter()
            .filter_map(|services| {
                let memory = curve.memory(services, stage)?.median();
                Some((scale.x(services), scale.y(memory)))
            })
            .collect();
        let Some((_, y)) = points.last() else {
            continue;
        };
        labels.push((*y, stage, color));
        line(&mut out, &points, color);
    }
    legend(&mut out, labels);
    out.push_str("</svg>\n");
    out
}

/// From figures to the picture; the mesh's size by its logarithm.
struct Scale {
    first: f64,
    last: f64,
    top: f64,
}

impl Scale {
    fn of(curve: &Curve) -> Self {
        let meshes = curve.meshes();
        let log = |services: Option<&usize>| services.map_or(1.0, |s| (*s as f64).log10());
        let (first, last) = (log(meshes.first()), log(meshes.last()));
        let all = meshes.iter().flat_map(|services| {
            Stage::ALL.map(|stage| curve.memory(*services, stage).map_or(0.0, |s| s.median()))
        });
        let largest = all.fold(0.0, f64::max);
        Self {
            first,
            last: last.max(first + 1e-9),
            top: (largest / STEP).ceil().max(1.0) * STEP,
        }
    }

    fn x(&self, services: usize) -> f64 {
        let share = ((services as f64).log10() - self.first) / (self.last - self.first);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, memory: f64) -> f64 {
        HEIGHT - BOTTOM - memory / self.top * (HEIGHT - TOP - BOTTOM)
    }
}

fn grid(out: &mut String, curve: &Curve, scale: &Scale) {
    let right = WIDTH - RIGHT;
    let mut memory = 0.0;
    while memory <= scale.top {
        let y = scale.y(memory);
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT:.1}\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{memory:.0}</text>",
            LEFT - 8.0,
            y + 4.0
        );
        memory += STEP;
    }
    for services in curve.meshes() {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{services}</text>",
            scale.x(services),
            HEIGHT - BOTTOM + 18.0
        );
    }
    let middle = LEFT + (right - LEFT) / 2.0;
    let _ = writeln!(
        out,
        "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">services in the mesh</text>\
         <text x=\"{LEFT:.1}\" y=\"{:.1}\">RssAnon of Envoy, MB</text>",
        HEIGHT - 10.0,
        TOP - 12.0
    );
}

fn line(out: &mut String, points: &[(f64, f64)], color: &str) {
    let path: Vec<String> = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
        path.join(" ")
    );
    for (x, y) in points {
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{color}\"/>"
        );
    }
}

/// Names at the ends of their lines, moved apart where they would lie on each other.
fn legend(out: &mut String, mut labels: Vec<(f64, Stage, &str)>) {
    const APART: f64 = 16.0;
    labels.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
    let mut free = 0.0;
    for (y, stage, color) in labels {
        let y = y.max(free);
        free = y + APART;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{color}\">{}</text>",
            WIDTH - RIGHT + 12.0,
            y + 4.0,
            stage.label()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::curve;
    use super::*;

    #[test]
    fn the_same_figures_are_the_same_bytes_within_the_picture() {
        let picture = svg(&curve());
        assert_eq!(picture, svg(&curve()));
        assert_eq!(picture.matches("<circle").count(), 3);
        // 20 MB is the top line; 18.1 lies a little below it.
        assert!(
            picture.contains("points=\"60.0,62.3 295.0,53.8 530.0,47.0\""),
            "{picture}"
        );
        assert!(svg(&Curve::default()).ends_with("</svg>\n"));
    }
}
