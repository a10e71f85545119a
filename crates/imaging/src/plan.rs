//! Which rectangle of a picture becomes how many pixels, and where they stand.

use image::DynamicImage;

use crate::attention::{self, Window};
use crate::transform::{Crop, Fit, Gravity, Rotation, Transform};
use crate::{Error, Limit, Limits};

/// A rectangle of the turned picture, the size that it is brought to, and the canvas under it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Plan {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) to: (u32, u32),
    pub(crate) canvas: Option<Canvas>,
}

/// What a picture is put on that is shorter than its rendering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Canvas {
    pub(crate) size: (u32, u32),
    pub(crate) place: (u32, u32),
}

/// A rectangle in the pixels of the turned picture.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Area {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Plan {
    /// For an upright picture of this size. Where pixels decide, `picture` has them, in any size; without them it is the middle: for
    /// sizes alone.
    pub(crate) fn new(transform: &Transform, (width, height): (u32, u32), picture: Option<&DynamicImage>) -> Self {
        let area = turned_area(transform, width, height);
        let whole = Self {
            left: area.left,
            top: area.top,
            width: area.width,
            height: area.height,
            to: (pixels(area.width), pixels(area.height)),
            canvas: None,
        };
        let allowed = |scale: f64| if transform.enlarge { scale } else { scale.min(1.0) };
        let size = size_of(transform.fit).unwrap_or(whole.to);
        let (across, down) = (f64::from(size.0) / area.width, f64::from(size.1) / area.height);
        let scaled = |scale: f64| (pixels(area.width * scale), pixels(area.height * scale));
        match transform.fit {
            Fit::Original => whole,
            Fit::Inside(most_width, most_height) => {
                let (width, height) = scaled(allowed(across.min(down)));
                // Rounding may not lead over what fits.
                Self { to: (width.min(most_width), height.min(most_height)), ..whole }
            }
            Fit::Width(most) => {
                let (width, height) = scaled(allowed(f64::from(most) / area.width));
                Self { to: (width.min(most), height), ..whole }
            }
            Fit::Height(most) => {
                let (width, height) = scaled(allowed(f64::from(most) / area.height));
                Self { to: (width, height.min(most)), ..whole }
            }
            Fit::Outside(..) => Self { to: scaled(allowed(across.max(down))), ..whole },
            Fit::Fill(to_width, to_height) => {
                let to =
                    if transform.enlarge { (to_width, to_height) } else { (to_width.min(whole.to.0), to_height.min(whole.to.1)) };
                Self { to, ..whole }
            }
            Fit::Cover(to_width, to_height) => {
                let scale = across.max(down);
                let (width, height) = (f64::from(to_width) / scale, f64::from(to_height) / scale);
                let to = if scale > allowed(scale) { (pixels(width), pixels(height)) } else { (to_width, to_height) };
                let (left, top) = window(transform, area, (width, height), picture);
                Self { left, top, width, height, to, canvas: None }
            }
            Fit::Contain(to_width, to_height) => {
                let (width, height) = scaled(allowed(across.min(down)));
                let to = (width.min(to_width), height.min(to_height));
                let (x, y) = side_of(transform.gravity);
                let place = ((f64::from(to_width - to.0) * x).round() as u32, (f64::from(to_height - to.1) * y).round() as u32);
                Self { to, canvas: Some(Canvas { size: (to_width, to_height), place }), ..whole }
            }
        }
    }

    /// Width and height of the rendering.
    pub(crate) fn size(&self) -> (u32, u32) {
        self.canvas.map_or(self.to, |canvas| canvas.size)
    }

    /// Refuses renderings over the limit, before anything is allocated for them.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), Error> {
        let (width, height) = self.size();
        let actual = u64::from(width) * u64::from(height);
        if actual > limits.output_pixels_max {
            return Err(Error::OverLimit { limit: Limit::OutputPixels, actual, max: limits.output_pixels_max });
        }
        Ok(())
    }

    /// The larger of the two ratios of rendering to picture.
    pub(crate) fn scale(&self) -> f64 {
        (f64::from(self.to.0) / self.width).max(f64::from(self.to.1) / self.height)
    }

    /// The same on a picture that came smaller.
    pub(crate) fn on(self, (width, height): (u32, u32), full: (u32, u32)) -> Self {
        let (across, down) = (f64::from(width) / f64::from(full.0), f64::from(height) / f64::from(full.1));
        let (left, top) = (self.left * across, self.top * down);
        // Rounding may not lead over the edge.
        let right = ((self.left + self.width) * across).min(width.into());
        let bottom = ((self.top + self.height) * down).min(height.into());
        Self { left, top, width: right - left, height: bottom - top, ..self }
    }

    /// Whether a picture of this size would stay as it is.
    pub(crate) fn keeps(&self, size: (u32, u32)) -> bool {
        self.to == size && (self.left, self.top) == (0.0, 0.0) && (self.width, self.height) == (size.0.into(), size.1.into())
    }
}

fn pixels(side: f64) -> u32 {
    (side.round() as u32).max(1)
}

fn size_of(fit: Fit) -> Option<(u32, u32)> {
    match fit {
        Fit::Original | Fit::Width(_) | Fit::Height(_) => None,
        Fit::Inside(width, height)
        | Fit::Outside(width, height)
        | Fit::Cover(width, height)
        | Fit::Contain(width, height)
        | Fit::Fill(width, height) => Some((width, height)),
    }
}

/// The crop as it lies on the picture once that is turned and mirrored.
fn turned_area(transform: &Transform, width: u32, height: u32) -> Area {
    let whole = Crop { x: 0, y: 0, width, height };
    let Crop { x, y, width: wide, height: high } = transform.crop.map_or(whole, |crop| crop.clamped(width, height));
    let (right, below) = (width - x - wide, height - y - high);
    let (left, top, wide, high) = match transform.rotation {
        Rotation::None => (x, y, wide, high),
        Rotation::Right => (below, x, high, wide),
        Rotation::Half => (right, below, wide, high),
        Rotation::Left => (y, right, high, wide),
    };
    let (full_width, full_height) = turned_size(transform, (width, height));
    let left = if transform.flip.horizontal { full_width - left - wide } else { left };
    let top = if transform.flip.vertical { full_height - top - high } else { top };
    Area { left: left.into(), top: top.into(), width: wide.into(), height: high.into() }
}

/// Width and height once the picture is turned.
pub(crate) fn turned_size(transform: &Transform, (width, height): (u32, u32)) -> (u32, u32) {
    if transform.rotation.swaps_sides() { (height, width) } else { (width, height) }
}

/// Where a window of this size begins inside an area.
fn window(transform: &Transform, area: Area, (width, height): (f64, f64), picture: Option<&DynamicImage>) -> (f64, f64) {
    let (room_across, room_down) = ((area.width - width).max(0.0), (area.height - height).max(0.0));
    let (x, y) = match (transform.gravity, picture) {
        (Gravity::Point(x, y), _) => {
            let (x, y) = turned_point(transform, (f64::from(x) / 1000.0, f64::from(y) / 1000.0));
            // The point counts on the crop's own width and height.
            let left = (x * area.width - width / 2.0).clamp(0.0, room_across);
            let top = (y * area.height - height / 2.0).clamp(0.0, room_down);
            return (area.left + left, area.top + top);
        }
        (gravity, Some(picture)) if gravity.needs_pixels() => {
            let across = room_across > room_down;
            let part = if across { width / area.width } else { height / area.height };
            let begin = attention::begin(picture, Window { across, part }, gravity);
            if across { (begin, 0.5) } else { (0.5, begin) }
        }
        (gravity, _) => side_of(gravity),
    };
    (area.left + room_across * x, area.top + room_down * y)
}

fn turned_point(transform: &Transform, (x, y): (f64, f64)) -> (f64, f64) {
    let (x, y) = match transform.rotation {
        Rotation::None => (x, y),
        Rotation::Right => (1.0 - y, x),
        Rotation::Half => (1.0 - x, 1.0 - y),
        Rotation::Left => (y, 1.0 - x),
    };
    (if transform.flip.horizontal { 1.0 - x } else { x }, if transform.flip.vertical { 1.0 - y } else { y })
}

/// Parts of the room left of and above something; the middle for gravities that name no side.
fn side_of(gravity: Gravity) -> (f64, f64) {
    match gravity {
        Gravity::Side(x, y) => (f64::from(x + 1) / 2.0, f64::from(y + 1) / 2.0),
        _ => (0.5, 0.5),
    }
}

/// The turned picture's part inside the crop, for judging what matters in it; none where all of it counts.
pub(crate) fn cropped(transform: &Transform, picture: &DynamicImage, full: (u32, u32)) -> Option<DynamicImage> {
    transform.crop?;
    let area = turned_area(transform, full.0, full.1);
    let turned = turned_size(transform, full);
    let (across, down) = (f64::from(picture.width()) / f64::from(turned.0), f64::from(picture.height()) / f64::from(turned.1));
    let crop = Crop {
        x: (area.left * across) as u32,
        y: (area.top * down) as u32,
        width: pixels(area.width * across),
        height: pixels(area.height * down),
    };
    let Crop { x, y, width, height } = crop.clamped(picture.width(), picture.height());
    Some(picture.crop_imm(x, y, width, height))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::Flip;

    fn of(fit: Fit) -> Transform {
        Transform { enlarge: false, ..Transform::of(fit) }
    }

    fn rectangle(plan: &Plan) -> (f64, f64, f64, f64) {
        (plan.left, plan.top, plan.width, plan.height)
    }

    #[test]
    fn sizes_are_those_of_the_fit() {
        for (fit, small, enlarged) in [
            (Fit::Original, (400, 300), (400, 300)),
            (Fit::Inside(200, 200), (200, 150), (200, 150)),
            (Fit::Inside(800, 900), (400, 300), (800, 600)),
            (Fit::Width(200), (200, 150), (200, 150)),
            (Fit::Width(800), (400, 300), (800, 600)),
            (Fit::Height(75), (100, 75), (100, 75)),
            (Fit::Height(600), (400, 300), (800, 600)),
            (Fit::Outside(200, 200), (267, 200), (267, 200)),
            (Fit::Outside(800, 900), (400, 300), (1200, 900)),
            (Fit::Cover(200, 200), (200, 200), (200, 200)),
            (Fit::Cover(800, 800), (300, 300), (800, 800)),
            (Fit::Cover(800, 100), (400, 50), (800, 100)),
            (Fit::Fill(200, 10), (200, 10), (200, 10)),
            (Fit::Fill(800, 10), (400, 10), (800, 10)),
            (Fit::Contain(200, 200), (200, 150), (200, 150)),
            (Fit::Contain(800, 900), (400, 300), (800, 600)),
        ] {
            assert_eq!(Plan::new(&of(fit), (400, 300), None).to, small, "{fit:?}");
            assert_eq!(Plan::new(&Transform { enlarge: true, ..of(fit) }, (400, 300), None).to, enlarged, "{fit:?} enlarged");
        }
        let thin = Plan::new(&of(Fit::Inside(10, 10)), (30_000, 1), None);
        assert_eq!(thin.to, (10, 1));
        let tall = Plan::new(&of(Fit::Width(1000)), (2000, 26_000), None);
        assert_eq!(tall.to, (1000, 13_000), "the other side has no bound");
        let contained = Plan::new(&Transform { gravity: Gravity::Side(1, 1), ..of(Fit::Contain(200, 200)) }, (400, 300), None);
        assert_eq!(contained.canvas, Some(Canvas { size: (200, 200), place: (0, 50) }));
    }

    #[test]
    fn the_window_follows_gravity() {
        let plan = |gravity, fit| rectangle(&Plan::new(&Transform { gravity, ..of(fit) }, (400, 300), None));
        let square = Fit::Cover(100, 100);
        assert_eq!(plan(Gravity::Centre, square), (50.0, 0.0, 300.0, 300.0));
        assert_eq!(plan(Gravity::Side(-1, 0), square), (0.0, 0.0, 300.0, 300.0));
        assert_eq!(plan(Gravity::Side(1, 1), square), (100.0, 0.0, 300.0, 300.0));
        assert_eq!(plan(Gravity::Point(0, 0), square), (0.0, 0.0, 300.0, 300.0));
        assert_eq!(plan(Gravity::Point(450, 500), square), (30.0, 0.0, 300.0, 300.0));
        assert_eq!(plan(Gravity::Side(0, -1), Fit::Cover(400, 100)), (0.0, 0.0, 400.0, 100.0));
        assert_eq!(plan(Gravity::Side(0, 1), Fit::Cover(400, 100)), (0.0, 200.0, 400.0, 100.0));
    }

    #[test]
    fn a_crop_and_a_point_turn_with_the_picture() {
        let crop = Some(Crop { x: 10, y: 20, width: 30, height: 40 });
        for (rotation, horizontal, expected) in [
            (Rotation::None, false, (10.0, 20.0, 30.0, 40.0)),
            (Rotation::Right, false, (240.0, 10.0, 40.0, 30.0)),
            (Rotation::Half, false, (360.0, 240.0, 30.0, 40.0)),
            (Rotation::Left, false, (20.0, 360.0, 40.0, 30.0)),
            (Rotation::None, true, (360.0, 20.0, 30.0, 40.0)),
            (Rotation::Right, true, (20.0, 10.0, 40.0, 30.0)),
        ] {
            let flip = Flip { horizontal, vertical: false };
            let plan = Plan::new(&Transform { crop, rotation, flip, ..of(Fit::Original) }, (400, 300), None);
            assert_eq!(rectangle(&plan), expected, "{rotation:?} {horizontal}");
        }
        // The left edge of the picture is the upper one after a quarter turn to the right.
        let transform = Transform { gravity: Gravity::Point(0, 500), rotation: Rotation::Right, ..of(Fit::Cover(100, 100)) };
        assert_eq!(rectangle(&Plan::new(&transform, (400, 300), None)), (0.0, 0.0, 300.0, 300.0));
    }

    #[test]
    fn renderings_are_bounded() {
        let limits = Limits { output_pixels_max: 1000, ..Limits::default() };
        let check = |fit| Plan::new(&Transform { enlarge: true, ..of(fit) }, (400, 300), None).check(&limits);
        check(Fit::Contain(100, 10)).expect("at the limit");
        assert!(matches!(
            check(Fit::Contain(1001, 1)),
            Err(Error::OverLimit { limit: Limit::OutputPixels, actual: 1001, max: 1000 })
        ));
        assert!(check(Fit::Outside(1, 100)).is_err());
    }
}
