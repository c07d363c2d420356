//! The layer × expert map cut to a size: an expert a cell where there is room, else several.

use crate::telemetry::ExpertMap;

use super::theme::Heat;

/// What one cell shows: of the experts in it, the latest use and the mean share in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    pub heat: Heat,
    /// `None`: the system did not say.
    pub share: Option<f32>,
}

/// The map at a size.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    pub columns: usize,
    pub rows: usize,
    /// `[rows, columns]`
    cells: Vec<Cell>,
    /// Layers in a row of cells and experts in a column; of a dense model, whose layers lie side by side, layers in a column.
    pub per_row: usize,
    pub per_column: usize,
    /// A layer is one cell: the model is dense.
    pub dense: bool,
}

impl Grid {
    /// Cuts `map` to at most `columns` × `rows` cells, both at least 1. `tick` is the forward pass that is now.
    pub fn new(map: &ExpertMap, tick: u64, columns: usize, rows: usize) -> Grid {
        let dense = map.n_experts() == 1;
        let (across, down) = if dense { (map.n_layers(), 1) } else { (map.n_experts(), map.n_layers()) };
        let per_column = across.div_ceil(columns.max(1)).max(1);
        let per_row = down.div_ceil(rows.max(1)).max(1);
        let (columns, rows) = (across.div_ceil(per_column), down.div_ceil(per_row));
        let mut cells = Vec::with_capacity(columns * rows);
        for row in 0..rows {
            let lines = row * per_row..((row + 1) * per_row).min(down);
            for column in 0..columns {
                let members = column * per_column..((column + 1) * per_column).min(across);
                let places = lines.clone().flat_map(|y| members.clone().map(move |x| (x, y)));
                let places = places.map(|(x, y)| if dense { (x, 0) } else { (y, x) });
                cells.push(merge(map, tick, places));
            }
        }
        Grid { columns, rows, cells, per_row, per_column, dense }
    }

    pub fn cell(&self, row: usize, column: usize) -> Cell {
        self.cells[row * self.columns + column]
    }
}

/// One cell of the given `(layer, expert)` places.
fn merge(map: &ExpertMap, tick: u64, places: impl Iterator<Item = (usize, usize)>) -> Cell {
    let mut heat = Heat::NEVER;
    let (mut sum, mut known) = (0.0, 0_u32);
    for (layer, expert) in places {
        heat = heat.max(Heat::of_age(map.last_used(layer, expert).map(|used| tick.saturating_sub(used))));
        if let Some(share) = map.resident(layer, expert) {
            sum += share;
            known += 1;
        }
    }
    Cell { heat, share: (known > 0).then(|| sum / known as f32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_room_every_expert_has_its_cell() {
        let map = ExpertMap::new(3, 5);
        map.mark_used(1, 4, 100, 1);
        map.set_resident(1, 4, Some(1.0));
        let grid = Grid::new(&map, 100, 10, 10);
        assert_eq!((grid.columns, grid.rows, grid.per_column, grid.per_row), (5, 3, 1, 1));
        assert_eq!(grid.cell(1, 4), Cell { heat: Heat::NOW, share: Some(1.0) });
        assert_eq!(grid.cell(0, 0), Cell { heat: Heat::NEVER, share: None });
    }

    #[test]
    fn without_room_a_cell_shows_the_latest_use_and_the_mean_of_what_is_known() {
        let map = ExpertMap::new(48, 128);
        map.mark_used(0, 0, 5, 1);
        map.mark_used(3, 4, 1000, 1);
        map.set_resident(0, 0, Some(1.0));
        map.set_resident(3, 4, Some(0.0));
        let grid = Grid::new(&map, 1000, 26, 12);
        assert_eq!((grid.per_column, grid.per_row, grid.columns, grid.rows), (5, 4, 26, 12));
        let cell = grid.cell(0, 0);
        assert_eq!(cell.heat, Heat::NOW);
        assert!((cell.share.unwrap() - 0.5).abs() < 0.01);
        // The last column holds the three experts that are left.
        assert_eq!(grid.cell(11, 25), Cell { heat: Heat::NEVER, share: None });
    }

    #[test]
    fn a_dense_models_layers_lie_side_by_side() {
        let map = ExpertMap::new(30, 1);
        map.mark_used(29, 0, 7, 1);
        let grid = Grid::new(&map, 7, 16, 4);
        assert!(grid.dense);
        assert_eq!((grid.columns, grid.rows, grid.per_column), (15, 1, 2));
        assert_eq!(grid.cell(0, 14).heat, Heat::NOW);
    }

    #[test]
    fn no_size_and_no_map_breaks_it() {
        let empty = Grid::new(&ExpertMap::new(0, 0), 0, 10, 10);
        assert_eq!((empty.columns, empty.rows), (0, 0));
        let tiny = Grid::new(&ExpertMap::new(61, 256), 0, 0, 0);
        assert_eq!((tiny.columns, tiny.rows), (1, 1));
    }
}
