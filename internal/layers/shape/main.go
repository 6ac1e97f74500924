// Command shape prints what the code of a tree looks like in numbers, beside the same numbers of codebases of this
// field, and names the functions and files that a reader will find long. It is a mirror, not a gate: cutting a
// function in two to please a number makes the house worse.
//
//	go run ./internal/layers/shape [folder]
//
// Read first: anchors, shape, (*shape).file. Generated, vendored and testdata files are left out, licence headers
// are not comments, a line with code and a comment counts as code, and the documented names are those of functions,
// types and their methods.
package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
)

// anchors were measured in the same way: code lines; comment per code; function length mean, median, p95 and
// longest; longest file; exported names with a comment; packages with one; test lines per code line; Test, Fuzz
// and Example functions; direct dependencies.
const anchors = `age	5359	0.13	18 10 59 217	676	54%	9/19	0.48	40 2 8	8
crypto/tls	10628	0.22	27 13 111 271	1965	91%	3/3	1.04	203 0 6	-
crypto/internal/fips140	12459	0.27	15 7 48 389	1229	60%	14/28	0.30	106 0 0	-
go-tpm (tpm2)	7763	0.34	11 7 40 156	3331	100%	9/9	0.90	76 0 0	3
setec	2944	0.36	15 9 48 124	1048	93%	9/10	0.59	33 0 0	16
kes	11549	0.21	27 15 91 258	1173	89%	4/24	0.21	39 0 1	24
smallstep crypto/kms	9626	0.22	21 14 61 177	2008	86%	0/14	1.89	279 0 0	28
boulder	42639	0.25	22 12 80 267	2879	76%	26/142	1.17	1043 0 0	44
tessera	16644	0.21	22 13 74 168	1713	77%	37/53	0.86	179 0 4	45
fxamacker/cbor	6107	0.25	20 7 83 298	3309	83%	1/1	3.97	421 0 23	1
bbolt	7968	0.22	15 8 46 150	1455	54%	3/12	1.37	283 0 10	6
etcd raft	5898	0.47	14 7 49 395	2162	69%	2/7	1.49	258 0 1	3
periph conn	6382	0.32	12 6 45 189	2313	93%	31/31	1.50	273 0 116	1
upspin	28709	0.23	18 11 61 186	1293	96%	86/89	0.65	324 0 3	8
`

// What is named below the table.
const (
	longFunc = 80
	longFile = 600
)

type span struct {
	name  string
	lines int
}

// shape collects a tree's figures; the zero value is an empty tree.
type shape struct {
	code, comments, tests int // lines
	funcs, files          []span
	exported, documented  int             // names
	packages              map[string]bool // folder: has a package comment
	test, fuzz, example   int             // functions in tests
	direct                int             // modules that go.mod requires for our own code
}

func main() {
	log.SetFlags(0)
	root, name := ".", "this tree"
	if len(os.Args) > 1 {
		root, name = os.Args[1], os.Args[1]
	}
	s, err := measure(root)
	if err == nil && len(s.funcs) == 0 {
		err = errors.New("no functions below " + root)
	}
	if err != nil {
		log.Fatal(err)
	}
	s.print(os.Stdout, name)
}

// measure reads all Go files below root.
func measure(root string) (*shape, error) {
	s := &shape{packages: map[string]bool{}}
	mod, _ := os.ReadFile(filepath.Join(root, "go.mod")) // none in a folder of a module
	s.direct = len(requirement.FindAll(mod, -1))
	return s, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (name == "testdata" || name == "vendor" || name == "bin" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")) {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(name) != ".go" {
			return nil
		}
		return s.file(root, path)
	})
}

// requirement matches what go.mod does not mark as indirect.
var requirement = regexp.MustCompile(`(?m)^(\t|require )[^\s(]+ v[^\s]+$`)

// generated also catches the generators, which are not read either.
var generated = regexp.MustCompile(`// Code generated b[y] `)

// file adds one file's figures.
func (s *shape) file(root, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path, text, parser.ParseComments)
	if err != nil || generated.Match(text) {
		return err
	}
	code, comments := lines(text)
	comments -= licence(fset, f)
	if strings.HasSuffix(path, "_test.go") {
		s.tests += code
		s.testFuncs(f)
		return nil
	}
	s.code += code
	s.comments += comments
	path, _ = filepath.Rel(root, path)
	s.files = append(s.files, span{path, strings.Count(string(text), "\n")})
	s.packages[filepath.Dir(path)] = s.packages[filepath.Dir(path)] || f.Doc != nil
	for _, d := range f.Decls {
		s.decl(fset, path, d)
	}
	return nil
}

// lines counts lines of code and lines of nothing but comment.
func lines(text []byte) (code, comments int) {
	fset := token.NewFileSet()
	file := fset.AddFile("", -1, len(text))
	var sc scanner.Scanner
	sc.Init(file, text, nil, scanner.ScanComments)
	isCode, isComment := map[int]bool{}, map[int]bool{}
	for {
		pos, tok, lit := sc.Scan()
		if tok == token.EOF {
			break
		}
		if tok == token.SEMICOLON && lit == "\n" {
			continue
		}
		first := file.Line(pos)
		for n := first; n <= first+strings.Count(lit, "\n"); n++ {
			if tok == token.COMMENT {
				isComment[n] = true
			} else {
				isCode[n] = true
			}
		}
	}
	for n := range isComment {
		if !isCode[n] {
			comments++
		}
	}
	return len(isCode), comments
}

// licence counts the lines of the comment that a file starts with, if it is one.
func licence(fset *token.FileSet, f *ast.File) int {
	if len(f.Comments) == 0 || f.Comments[0] == f.Doc || f.Comments[0].Pos() > f.Package {
		return 0
	}
	head := f.Comments[0]
	if !strings.Contains(head.Text(), "Copyright") {
		return 0
	}
	return height(fset, head)
}

func height(fset *token.FileSet, n ast.Node) int {
	return fset.Position(n.End()).Line - fset.Position(n.Pos()).Line + 1
}

func (s *shape) decl(fset *token.FileSet, path string, d ast.Decl) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil || exported(d.Recv.List[0].Type) {
			s.name(d.Name, d.Doc)
		}
		if d.Body != nil {
			s.funcs = append(s.funcs, span{path + " " + d.Name.Name, height(fset, d)})
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			if t, ok := spec.(*ast.TypeSpec); ok {
				s.name(t.Name, d.Doc, t.Doc)
			}
		}
	}
}

// exported reports whether a receiver's type, *T or T[P], can be named outside its package.
func exported(recv ast.Expr) bool {
	switch t := recv.(type) {
	case *ast.StarExpr:
		return exported(t.X)
	case *ast.IndexExpr:
		return exported(t.X)
	case *ast.IndexListExpr:
		return exported(t.X)
	}
	id, ok := recv.(*ast.Ident)
	return ok && id.IsExported()
}

func (s *shape) name(id *ast.Ident, docs ...*ast.CommentGroup) {
	if !id.IsExported() {
		return
	}
	s.exported++
	if slices.ContainsFunc(docs, func(d *ast.CommentGroup) bool { return d != nil }) {
		s.documented++
	}
}

func (s *shape) testFuncs(f *ast.File) {
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		switch {
		case !ok || fn.Recv != nil:
		case strings.HasPrefix(fn.Name.Name, "Test"):
			s.test++
		case strings.HasPrefix(fn.Name.Name, "Fuzz"):
			s.fuzz++
		case strings.HasPrefix(fn.Name.Name, "Example"):
			s.example++
		}
	}
}

func (s *shape) print(w io.Writer, name string) {
	longest := func(a, b span) int { return b.lines - a.lines }
	slices.SortFunc(s.funcs, longest)
	slices.SortFunc(s.files, longest)
	sum, docs := 0, 0
	for _, f := range s.funcs {
		sum += f.lines
	}
	for _, has := range s.packages {
		if has {
			docs++
		}
	}
	at := func(q float64) int { return s.funcs[int(float64(len(s.funcs)-1)*(1-q))].lines }
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "\tcode\tcomment\tfunc mean median p95 max\tfile\tdoc\tpkg doc\ttest/code\tTest Fuzz Example\tdeps\n", anchors)
	fmt.Fprintf(t, "%s\t%d\t%.2f\t%.0f %d %d %d\t%d\t%.0f%%\t%d/%d\t%.2f\t%d %d %d\t%d\n", name, s.code, ratio(s.comments, s.code),
		ratio(sum, len(s.funcs)), at(.5), at(.95), at(1), s.files[0].lines, 100*ratio(s.documented, s.exported), docs, len(s.packages),
		ratio(s.tests, s.code), s.test, s.fuzz, s.example, s.direct)
	t.Flush()
	list(w, "functions", s.funcs, longFunc)
	list(w, "files", s.files, longFile)
}

func ratio(a, b int) float64 { return float64(a) / float64(b) }

func list(w io.Writer, what string, spans []span, limit int) {
	fmt.Fprintf(w, "\n%s of more than %d lines:\n", what, limit)
	for _, s := range spans {
		if s.lines > limit {
			fmt.Fprintf(w, "%6d  %s\n", s.lines, s.name)
		}
	}
}
