// River: one workload, one line of JSON. Arguments: workload, jobs, URL of an empty database.
//
// At its best: 2,000 workers, a fetch cooldown of 1 ms, the better of 8 and 32 connections for single inserts, COPY for
// batches. It keeps the rows of what is done.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// Noop does nothing.
type Noop struct {
	Pad string `json:"pad"`
}

// Kind is the name of the task.
func (Noop) Kind() string { return "noop" }

type worker struct {
	river.WorkerDefaults[Noop]
	mutex   sync.Mutex
	started map[int64]time.Time
	doubled int
	count   atomic.Int64
	wanted  int64
	all     chan struct{}
}

func (w *worker) Work(_ context.Context, job *river.Job[Noop]) error {
	now := time.Now()
	w.mutex.Lock()
	if _, ran := w.started[job.ID]; ran {
		w.doubled++
	}
	w.started[job.ID] = now
	w.mutex.Unlock()
	if w.count.Add(1) == w.wanted {
		close(w.all)
	}
	return nil
}

var noop = Noop{Pad: strings.Repeat("x", 90)}

type figures map[string]any

func main() {
	ctx := context.Background()
	workload, url := os.Args[1], os.Args[3]
	jobs := must(strconv.Atoi(os.Args[2]))
	pool := connect(ctx, url, 20)
	migrator := must(rivermigrate.New(riverpgxv5.New(pool), nil))
	must(migrator.Migrate(ctx, rivermigrate.DirectionUp, nil))
	found := map[string]func(context.Context, *pgxpool.Pool, string, int) figures{
		"drain": drain, "single": single, "batch": batch, "latency": latency,
	}[workload](ctx, pool, url, jobs)
	found["peer"], found["workload"], found["jobs"] = "river", workload, jobs
	fmt.Println(string(must(json.Marshal(found))))
}

func connect(ctx context.Context, url string, connections int32) *pgxpool.Pool {
	config := must(pgxpool.ParseConfig(url))
	config.MaxConns = connections
	return must(pgxpool.NewWithConfig(ctx, config))
}

func client(pool *pgxpool.Pool, w *worker) *river.Client[pgx.Tx] {
	workers := river.NewWorkers()
	config := &river.Config{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if w != nil {
		river.AddWorker(workers, w)
		config.Workers = workers
		config.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2_000}}
		config.FetchCooldown = time.Millisecond
		config.FetchPollInterval = 100 * time.Millisecond
	}
	return must(river.NewClient(riverpgxv5.New(pool), config))
}

func newWorker(jobs int) *worker {
	return &worker{started: make(map[int64]time.Time, jobs), wanted: int64(jobs), all: make(chan struct{})}
}

func fill(ctx context.Context, c *river.Client[pgx.Tx], jobs int) {
	for left := jobs; left > 0; left -= 1_000 {
		params := make([]river.InsertManyParams, min(left, 1_000))
		for i := range params {
			params[i] = river.InsertManyParams{Args: noop}
		}
		must(c.InsertManyFast(ctx, params))
	}
}

func settle(ctx context.Context, pool *pgxpool.Pool) {
	must(pool.Exec(ctx, "VACUUM ANALYZE"))
	must(pool.Exec(ctx, "CHECKPOINT"))
}

func count(ctx context.Context, pool *pgxpool.Pool, where string) (n int) {
	check(pool.QueryRow(ctx, "SELECT count(*) FROM river_job WHERE "+where).Scan(&n))
	return n
}

func drain(ctx context.Context, pool *pgxpool.Pool, _ string, jobs int) figures {
	fill(ctx, client(pool, nil), jobs)
	settle(ctx, pool)
	w := newWorker(jobs)
	c := client(pool, w)
	begin := time.Now()
	check(c.Start(ctx))
	<-w.all
	for unfinished := true; unfinished; {
		check(pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM river_job WHERE state IN ('available', 'running'))").Scan(&unfinished))
	}
	rate := float64(jobs) / time.Since(begin).Seconds()
	check(c.Stop(ctx))
	return figures{"jobs_per_second": rate, "lost": jobs - count(ctx, pool, "state = 'completed'"), "doubled": w.doubled}
}

// single tells the better of two pools: which one that is depends on what else the machine does.
func single(ctx context.Context, pool *pgxpool.Pool, url string, jobs int) figures {
	var best float64
	for _, connections := range []int32{8, 32} {
		best = max(best, singleOver(ctx, connect(ctx, url, connections), jobs))
	}
	return figures{"jobs_per_second": best, "lost": 2*jobs - count(ctx, pool, "true"), "doubled": 0}
}

func singleOver(ctx context.Context, pool *pgxpool.Pool, jobs int) float64 {
	defer pool.Close()
	c := client(pool, nil)
	settle(ctx, pool)
	var next atomic.Int64
	var group sync.WaitGroup
	begin := time.Now()
	for range 64 {
		group.Go(func() {
			for next.Add(1) <= int64(jobs) {
				must(c.Insert(ctx, noop, nil))
			}
		})
	}
	group.Wait()
	return float64(jobs) / time.Since(begin).Seconds()
}

func batch(ctx context.Context, pool *pgxpool.Pool, _ string, jobs int) figures {
	settle(ctx, pool)
	begin := time.Now()
	fill(ctx, client(pool, nil), jobs)
	rate := float64(jobs) / time.Since(begin).Seconds()
	return figures{"jobs_per_second": rate, "lost": jobs - count(ctx, pool, "true"), "doubled": 0}
}

// latency is an open loop: a job's time counts from the moment when it was to be sent.
func latency(ctx context.Context, pool *pgxpool.Pool, _ string, jobs int) figures {
	w := newWorker(jobs)
	c := client(pool, w)
	check(c.Start(ctx))
	var group sync.WaitGroup
	ids, due := make([]int64, jobs), make([]time.Time, jobs)
	begin := time.Now().Add(200 * time.Millisecond)
	for i := range jobs {
		due[i] = begin.Add(time.Duration(i) * 10 * time.Millisecond)
		time.Sleep(time.Until(due[i]))
		group.Go(func() { ids[i] = must(c.Insert(ctx, noop, nil)).Job.ID })
	}
	group.Wait()
	<-w.all
	check(c.Stop(ctx))
	var times []float64
	for i := min(200, jobs/10); i < jobs; i++ {
		times = append(times, float64(w.started[ids[i]].Sub(due[i]).Nanoseconds())/1e6)
	}
	slices.Sort(times)
	at := func(q float64) float64 { return times[min(len(times)-1, int(q*float64(len(times))))] }
	return figures{"p50_ms": at(0.5), "p99_ms": at(0.99), "lost": jobs - len(w.started), "doubled": w.doubled}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}
