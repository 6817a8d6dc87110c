-- Export, import, backup and restore give the same rows back.
CREATE COLLECTION docs (dim 3, metric ip, rerank f32, id string)
  FIELDS (name STRING, n INT, x FLOAT, tags STRING[], ok BOOL);
INSERT INTO docs VALUES
  ('1', [0.1, -2, 3e-3], 'comma, "quote"', 9007199254740993, 0.1, ['a', 'b,c'], TRUE, 'line
break'),
  ('2', [1, 2, 3], NULL, NULL, NULL, NULL, NULL, NULL);
.export rows.jsonl
.export rows.csv
.export vectors.npy --collection docs
.import rows.jsonl --create --collection from_jsonl --metric ip --rerank f32
.import rows.csv --create --collection from_csv --metric ip --rerank f32
.import vectors.npy --metadata vectors.jsonl --create --collection from_npy --metric ip --rerank f32
.mode json
SELECT id, vector, name, n, x, tags, ok, document FROM docs;
SELECT id, vector, name, n, x, tags, ok, document FROM from_jsonl;
SELECT id, vector, name, n, x, tags, ok, document FROM from_csv;
SELECT id, vector, name, n, x, tags, ok, document FROM from_npy;
.schema
.mode table
SELECT * FROM docs NEAREST TO FILE 'vectors.npy' ROW 1 LIMIT 1;
SELECT id, score FROM docs NEAREST TO FILE 'vectors.npy' LIMIT 1;
.import rows.jsonl --collection docs --replace
.check
.backup copy.qdb
.restore copy.qdb again.qdb
.open --readonly again.qdb
SELECT COUNT(*) FROM docs;
INSERT INTO docs (id, vector) VALUES ('3', [1, 2, 3]);
