//! Puts the frames of an animation together: each changes a part of a canvas, and says what becomes of that part afterwards.

use image::{Pixel as _, Rgba, RgbaImage};

/// What becomes of a frame's part of the canvas before the next frame is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposal {
    Keep,
    Clear,
    /// As it was before the frame.
    Restore,
}

/// One frame as a file has it.
pub(super) struct Patch {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) pixels: RgbaImage,
    /// Whether what lies below shows through; otherwise it is replaced.
    pub(super) blends: bool,
    pub(super) disposal: Disposal,
}

pub(super) struct Canvas {
    pixels: RgbaImage,
    /// What is still to be done to the part of the last frame.
    undo: Option<Undo>,
}

struct Undo {
    left: u32,
    top: u32,
    pixels: RgbaImage,
}

impl Canvas {
    /// A transparent one.
    pub(super) fn new(width: u32, height: u32) -> Self {
        Self { pixels: RgbaImage::new(width, height), undo: None }
    }

    /// Draws a frame and gives the canvas as it is seen then. What reaches over its edges is cut off.
    pub(super) fn draw(&mut self, patch: &Patch) -> RgbaImage {
        if let Some(Undo { left, top, pixels }) = self.undo.take() {
            self.put(left, top, &pixels, false);
        }
        let (width, height) = patch.pixels.dimensions();
        self.undo = match patch.disposal {
            Disposal::Keep => None,
            Disposal::Clear => Some(Undo { left: patch.left, top: patch.top, pixels: RgbaImage::new(width, height) }),
            Disposal::Restore => {
                let (left, top) = (patch.left, patch.top);
                let before = |x, y| self.pixels.get_pixel_checked(left.saturating_add(x), top.saturating_add(y)).copied();
                let pixels = RgbaImage::from_fn(width, height, |x, y| before(x, y).unwrap_or(Rgba([0; 4])));
                Some(Undo { left, top, pixels })
            }
        };
        self.put(patch.left, patch.top, &patch.pixels, patch.blends);
        self.pixels.clone()
    }

    fn put(&mut self, left: u32, top: u32, pixels: &RgbaImage, blends: bool) {
        for (x, y, pixel) in pixels.enumerate_pixels() {
            let (x, y) = (left.saturating_add(x), top.saturating_add(y));
            let Some(below) = self.pixels.get_pixel_mut_checked(x, y) else { continue };
            match pixel.0[3] {
                0 if blends => {}
                1..=254 if blends => below.blend(pixel),
                _ => *below = *pixel,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_kept_cleared_or_restored() {
        let red = Rgba([255, 0, 0, 255]);
        let (blue, clear) = (Rgba([0, 0, 255, 255]), Rgba([0; 4]));
        let patch =
            |left, colour, disposal| Patch { left, top: 0, pixels: RgbaImage::from_pixel(2, 1, colour), blends: true, disposal };
        let row = |canvas: &RgbaImage| canvas.pixels().copied().collect::<Vec<_>>();
        for (disposal, left) in [(Disposal::Keep, blue), (Disposal::Clear, clear), (Disposal::Restore, red)] {
            let mut canvas = Canvas::new(4, 1);
            canvas.draw(&patch(0, red, Disposal::Keep));
            assert_eq!(row(&canvas.draw(&patch(0, blue, disposal))), [blue, blue, clear, clear]);
            // It reaches over the edge.
            assert_eq!(row(&canvas.draw(&patch(3, red, Disposal::Keep))), [left, left, clear, red], "{disposal:?}");
        }
    }
}
