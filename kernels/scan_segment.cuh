// One line of the table of segments: `Table` of device_scan_launch.py.
struct Segment {
    const u8* codes;       // (rows, width)
    const float4* values;  // (rows,) scale, bias, lost, norm
    const u32* bits;       // rows that may be found; null: all
    const u32* listed;     // the rows to look at; null: all
    i64 count;             // rows, or listed ones
    i64 first_tile;
    i64 first_place;       // number of its first row among those of all segments
    const u8* vectors;     // as they are stored
};
