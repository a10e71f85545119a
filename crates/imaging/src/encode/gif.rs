//! GIF: of each frame only what changes, in a palette that frames share as long as it suits them.

use gif::{DisposalMethod, Encoder, Frame, Repeat};
use image::RgbaImage;

use super::palette::{COLOURS_MAX, Palette, Pixel};
use super::{Failed, animation::Moment};

const CLEAR: Pixel = [0; 4];
/// Of a palette's numbers one means that what was there stays.
const FRAME_COLOURS_MAX: usize = COLOURS_MAX - 1;
/// A frame shares a palette that is so near to its colours, on average, of 255.
const SHARED_DISTANCE_MAX: f64 = 2.0;
/// A few pixels are not worth a palette: of so many the distance may be greater by one,
const SMALL_FRAME_PIXELS: f64 = 2000.0;
/// and at most this.
const SMALL_FRAME_DISTANCE_MAX: f64 = 6.0;
/// Of more pixels than these, not all are looked at for a palette.
const PALETTE_PIXELS_MAX: usize = 4_000_000;
/// The shortest time that browsers obey, and the longest that there is, in hundredths of a second.
const DELAY_MIN: u32 = 2;
const DELAY_MAX: u32 = u16::MAX as u32;

impl From<gif::EncodingError> for Failed {
    fn from(error: gif::EncodingError) -> Self {
        Self::of(error)
    }
}

/// A rectangle of pixels, up to but without its right and lower edge.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Area {
    left: u32,
    top: u32,
    right: u32,
    bottom: u32,
}

impl Area {
    const NONE: Self = Self { left: u32::MAX, top: u32::MAX, right: 0, bottom: 0 };

    fn is_empty(self) -> bool {
        self.left >= self.right || self.top >= self.bottom
    }

    fn with(self, other: Self) -> Self {
        Self {
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
        }
    }

    /// The smallest that holds all places where two pictures of a size make something true.
    fn where_(one: &RgbaImage, other: &RgbaImage, is: impl Fn(Pixel, Pixel) -> bool) -> Self {
        let width = one.width() as usize;
        if width == 0 {
            return Self::NONE;
        }
        let mut area = Self::NONE;
        let lines = one.as_raw().chunks_exact(width * 4).zip(other.as_raw().chunks_exact(width * 4));
        for (y, (one, other)) in lines.enumerate() {
            let mut places = one.as_chunks().0.iter().zip(other.as_chunks().0).map(|(one, other)| is(*one, *other));
            let Some(first) = places.position(|is| is) else { continue };
            let mut pairs = one.as_chunks().0.iter().zip(other.as_chunks().0);
            let last = pairs.rposition(|(one, other)| is(*one, *other)).unwrap_or(first);
            let line = Self { left: first as u32, top: y as u32, right: last as u32 + 1, bottom: y as u32 + 1 };
            area = area.with(line);
        }
        area
    }

    /// Its pixels in two pictures, line by line.
    fn pairs<'a>(self, one: &'a RgbaImage, other: &'a RgbaImage) -> impl Iterator<Item = (Pixel, Pixel)> + 'a {
        (self.top..self.bottom)
            .flat_map(move |y| (self.left..self.right).map(move |x| (one.get_pixel(x, y).0, other.get_pixel(x, y).0)))
    }
}

/// A file of these frames, which are shown so many times; 0 is for ever. GIF has no half transparency: a pixel is seen or not.
pub(super) fn encode(mut moments: Vec<Moment>, plays: u32) -> Result<Vec<u8>, Failed> {
    moments.iter_mut().flat_map(|moment| moment.canvas.pixels_mut()).for_each(|pixel| match pixel.0[3] {
        0..128 => pixel.0 = CLEAR,
        _ => pixel.0[3] = u8::MAX,
    });
    let first = moments.first().ok_or_else(|| Failed("it has no frames".to_owned()))?;
    let (width, height) = first.canvas.dimensions();
    let side = |side: u32| u16::try_from(side).map_err(|_| Failed("GIF has at most 65535 pixels a side".to_owned()));
    let common = palette_of(drawn_in(&moments));
    let mut encoder = Encoder::new(Vec::new(), side(width)?, side(height)?, &table(&common))?;
    // The file says how often it is shown again, and nothing when it is shown once.
    match plays {
        _ if moments.len() < 2 => {}
        0 => encoder.set_repeat(Repeat::Infinite)?,
        1 => {}
        _ => encoder.set_repeat(Repeat::Finite(u16::try_from(plays - 1).unwrap_or(u16::MAX)))?,
    }
    let mut palettes = Palettes { common, own: None };
    // What is seen before each frame is drawn.
    let mut shown = RgbaImage::new(width, height);
    let (mut begins, mut written) = (0, 0);
    for (index, moment) in moments.iter().enumerate() {
        let change = change(&shown, &moment.canvas, moments.get(index + 1).map(|next| &next.canvas), index == 0);
        let ends = begins + u64::from(moment.milliseconds);
        // Rounded by their ends, or many short frames would add up to another time.
        let delay = u32::try_from((ends / 10).saturating_sub(written)).unwrap_or(DELAY_MAX).clamp(DELAY_MIN, DELAY_MAX);
        (begins, written) = (ends, written + u64::from(delay));
        encoder.write_frame(&frame(&mut palettes, &shown, &moment.canvas, change, delay))?;
        shown.clone_from(&moment.canvas);
        if change.clears {
            clear(&mut shown, change.area);
        }
    }
    Ok(encoder.into_inner()?)
}

/// Pixels that are not as they were in the frame before.
fn drawn_in(moments: &[Moment]) -> impl Iterator<Item = Pixel> + Clone {
    fn pixels(moment: &Moment) -> impl Iterator<Item = Pixel> + Clone {
        moment.canvas.as_raw().as_chunks::<4>().0.iter().copied()
    }
    let first = moments.first().into_iter().flat_map(pixels);
    let changed = moments.windows(2).flat_map(|pair| pixels(&pair[0]).zip(pixels(&pair[1])));
    first.chain(changed.filter(|(before, pixel)| before != pixel).map(|(_, pixel)| pixel))
}

/// Which part is drawn anew, and whether it is cleared before the next frame.
#[derive(Clone, Copy)]
struct Change {
    area: Area,
    clears: bool,
}

fn change(shown: &RgbaImage, canvas: &RgbaImage, next: Option<&RgbaImage>, first: bool) -> Change {
    let whole = Area { left: 0, top: 0, right: canvas.width(), bottom: canvas.height() };
    let drawn = if first { whole } else { Area::where_(shown, canvas, |shown, pixel| shown != pixel) };
    // A frame can't take away what others have drawn. So this one does, when its time is over.
    let gone = next.map_or(Area::NONE, |next| Area::where_(canvas, next, |pixel, next| next == CLEAR && pixel != CLEAR));
    let area = drawn.with(gone);
    let area = if area.is_empty() { Area { left: 0, top: 0, right: 1, bottom: 1 } } else { area };
    Change { area, clears: !gone.is_empty() }
}

fn clear(shown: &mut RgbaImage, area: Area) {
    for y in area.top..area.bottom {
        for x in area.left..area.right {
            shown.put_pixel(x, y, image::Rgba(CLEAR));
        }
    }
}

/// The file's palette, and the latest that a frame has had of its own.
struct Palettes {
    common: Palette,
    own: Option<Palette>,
}

impl Palettes {
    /// One that suits pixels, and whether it must be written with the frame.
    fn suiting(&mut self, pixels: &[Pixel]) -> (&mut Palette, bool) {
        let most = (SHARED_DISTANCE_MAX + SMALL_FRAME_PIXELS / pixels.len().max(1) as f64).min(SMALL_FRAME_DISTANCE_MAX);
        let suits = |palette: &mut Palette| palette.distance(pixels.iter().copied()).is_some_and(|distance| distance <= most);
        if suits(&mut self.common) {
            return (&mut self.common, false);
        }
        if !self.own.as_mut().is_some_and(suits) {
            self.own = None;
        }
        (self.own.get_or_insert_with(|| palette_of(pixels.iter().copied())), true)
    }
}

fn palette_of(pixels: impl Iterator<Item = Pixel> + Clone) -> Palette {
    let seen = pixels.filter(|pixel| *pixel != CLEAR);
    Palette::exact(seen.clone(), FRAME_COLOURS_MAX).unwrap_or_else(|| {
        let step = seen.clone().count().div_ceil(PALETTE_PIXELS_MAX).max(1);
        Palette::near(&seen.step_by(step).flatten().collect::<Vec<u8>>(), FRAME_COLOURS_MAX)
    })
}

/// Colours as the file has them. The number behind them is that of what stays.
fn table(palette: &Palette) -> Vec<u8> {
    palette.colours().iter().flat_map(|colour| [colour[0], colour[1], colour[2]]).chain([0; 3]).collect()
}

fn frame(palettes: &mut Palettes, shown: &RgbaImage, canvas: &RgbaImage, change: Change, delay: u32) -> Frame<'static> {
    let Change { area, clears } = change;
    let drawn: Vec<Pixel> =
        area.pairs(shown, canvas).filter(|(shown, pixel)| shown != pixel && *pixel != CLEAR).map(|(_, pixel)| pixel).collect();
    let (palette, own) = palettes.suiting(&drawn);
    let stays = u8::try_from(palette.colours().len()).unwrap_or(u8::MAX);
    let number = |(shown, pixel): (Pixel, Pixel)| {
        if shown == pixel || pixel == CLEAR { stays } else { palette.number(pixel).unwrap_or(stays) }
    };
    let buffer: Vec<u8> = area.pairs(shown, canvas).map(number).collect();
    let narrow = |side: u32| u16::try_from(side).unwrap_or(u16::MAX);
    Frame {
        delay: narrow(delay),
        dispose: if clears { DisposalMethod::Background } else { DisposalMethod::Keep },
        transparent: Some(stays),
        left: narrow(area.left),
        top: narrow(area.top),
        width: narrow(area.right - area.left),
        height: narrow(area.bottom - area.top),
        palette: own.then(|| table(palette)),
        buffer: buffer.into(),
        ..Frame::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::gif::GifDecoder;
    use image::{AnimationDecoder as _, Rgba};
    use std::io::Cursor;

    fn decoded(gif: &[u8]) -> Vec<(RgbaImage, u32)> {
        let frames = GifDecoder::new(Cursor::new(gif)).expect("opens").into_frames();
        let frame = |frame: image::Frame| (frame.delay().numer_denom_ms().0, frame.into_buffer());
        frames.map(|each| frame(each.expect("decodes"))).map(|(delay, canvas)| (canvas, delay)).collect()
    }

    /// Pixels come, stay, change and go, in every combination, and all is as it was.
    #[test]
    fn what_is_shown_is_what_was_given() {
        let mut state = 1_u32;
        let mut random = move |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % below
        };
        for round in 0..200 {
            let (width, height) = (1 + random(9), 1 + random(9));
            let (colours, clear) = (1 + random(6), random(3));
            let mut canvas = RgbaImage::new(width, height);
            let mut moments = Vec::new();
            for _ in 0..1 + random(6) {
                for _ in 0..random(width * height + 1) {
                    let (x, y) = (random(width), random(height));
                    let pixel = if random(4) < clear { CLEAR } else { [(random(colours) * 40) as u8, 9, 200, 255] };
                    canvas.put_pixel(x, y, Rgba(pixel));
                }
                moments.push(canvas.clone());
            }
            let given = moments.iter().map(|canvas| Moment { canvas: canvas.clone(), milliseconds: 50 }).collect();
            let shown: Vec<RgbaImage> =
                decoded(&encode(given, 0).expect("encodes")).into_iter().map(|(canvas, _)| canvas).collect();
            assert_eq!(shown.len(), moments.len(), "round {round}");
            for (shown, given) in shown.iter().zip(&moments) {
                // What can't be seen may have any colour.
                let alike = shown.pixels().zip(given.pixels()).all(|(one, other)| one == other || one.0[3] + other.0[3] == 0);
                assert!(alike, "round {round}: {shown:?} and {given:?}");
            }
        }
    }

    #[test]
    fn short_frames_add_up_to_the_time_that_they_take() {
        let moment = |shade: u8| Moment { canvas: RgbaImage::from_pixel(2, 2, Rgba([shade, 0, 0, 255])), milliseconds: 33 };
        let delays: Vec<u32> =
            decoded(&encode((0..30).map(moment).collect(), 0).expect("encodes")).into_iter().map(|(_, delay)| delay).collect();
        assert_eq!(delays.iter().sum::<u32>(), 990);
        assert!(delays.iter().all(|delay| (30..=40).contains(delay)), "{delays:?}");
    }

    /// A scene with colours of its own gets its own palette; the next one that suits it shares that.
    #[test]
    fn frames_share_palettes_that_suit_them() {
        let scene = |from: u8, at: u8| {
            let canvas = RgbaImage::from_fn(64, 64, |x, y| Rgba([from + (x / 2) as u8, (y * 4) as u8, at, 255]));
            Moment { canvas, milliseconds: 100 }
        };
        let one = encode(vec![scene(0, 0)], 0).expect("encodes").len();
        let same = encode(vec![scene(0, 0), scene(0, 1), scene(0, 0)], 0).expect("encodes");
        let other = encode(vec![scene(0, 0), scene(200, 255), scene(200, 254)], 0).expect("encodes");
        for (gif, palettes) in [(&same, 1), (&other, 3)] {
            let shown = decoded(gif);
            assert_eq!(shown.len(), 3);
            let tables = (gif.len() - one).div_ceil(768);
            assert!(tables >= palettes - 1, "{palettes}");
        }
        let (canvas, _) = &decoded(&other)[1];
        let wanted = scene(200, 255).canvas;
        let sum: u64 = canvas.as_raw().iter().zip(wanted.as_raw()).map(|(one, other)| u64::from(one.abs_diff(*other))).sum();
        assert!((sum as f64) < 6.0 * wanted.as_raw().len() as f64, "{sum}");
    }
}
