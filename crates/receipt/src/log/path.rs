use std::fmt;
use std::str::FromStr;

use super::tile::LEVELS;
use super::{Error, TILE_WIDTH, Tile};

/// What a log serves, by the paths of C2SP `tlog-tiles`.
///
/// ```
/// use countersign_receipt::log::{Resource, Tile};
///
/// let tile = Resource::Tile(Tile { level: 1, index: 1_234_067, width: 8 });
/// assert_eq!(tile.to_string(), "tile/1/x001/x234/067.p/8");
/// assert_eq!("tile/1/x001/x234/067.p/8".parse(), Ok(tile));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// `checkpoint`: the newest signed checkpoint.
    Checkpoint,
    /// `tile/<L>/<N>[.p/<W>]`: hashes.
    Tile(Tile),
    /// `tile/entries/<N>[.p/<W>]`: the entries that a tile of level 0 has the hashes of.
    Entries(Tile),
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tile = match self {
            Resource::Checkpoint => return f.write_str("checkpoint"),
            Resource::Entries(tile) => {
                f.write_str("tile/entries/")?;
                tile
            }
            Resource::Tile(tile) => {
                write!(f, "tile/{}/", tile.level)?;
                tile
            }
        };
        write_index(f, tile.index)?;
        if tile.is_whole() { Ok(()) } else { write!(f, ".p/{}", tile.width) }
    }
}

/// Three digits at a time; all but the last three begin with an `x`.
fn write_index(f: &mut fmt::Formatter<'_>, index: u64) -> fmt::Result {
    let mut divisor = 1;
    while index / divisor >= 1000 {
        divisor *= 1000;
    }
    while divisor > 1 {
        write!(f, "x{:03}/", index / divisor % 1000)?;
        divisor /= 1000;
    }
    write!(f, "{:03}", index % 1000)
}

impl FromStr for Resource {
    type Err = Error;

    /// Reads the one spelling of a path.
    fn from_str(path: &str) -> Result<Resource, Error> {
        let resource = read(path).filter(|resource| resource.to_string() == path);
        resource.ok_or_else(|| Error::Path(path.chars().take(LONGEST).collect()))
    }
}

fn read(path: &str) -> Option<Resource> {
    if path == "checkpoint" {
        return Some(Resource::Checkpoint);
    }
    if path.len() > LONGEST {
        return None;
    }
    let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
    let (index, width) = match rest.split_once(".p/") {
        Some((index, width)) => (index, width.parse().ok().filter(|w| (1..TILE_WIDTH).contains(w))?),
        None => (rest, TILE_WIDTH),
    };
    let index = index.split('/').try_fold(0_u64, |sum, part| {
        let digits: u64 = part.strip_prefix('x').unwrap_or(part).parse().ok()?;
        sum.checked_mul(1000)?.checked_add(digits)
    })?;
    let level = if kind == "entries" { 0 } else { kind.parse().ok().filter(|level| *level < LEVELS)? };
    // A tree of as many leaves as can be counted has no tile beyond these.
    let bits = 64 - 8 * (u32::from(level) + 1);
    (index.checked_shr(bits).unwrap_or(0) == 0).then_some(())?;
    let tile = Tile { level, index, width };
    Some(if kind == "entries" { Resource::Entries(tile) } else { Resource::Tile(tile) })
}

/// More characters than any path of a log has.
const LONGEST: usize = 64;
