# ---- shortest_path
import networkx as nx
G = nx.Graph()
G.add_weighted_edges_from([('a', 'b', 4), ('a', 'c', 1), ('c', 'b', 2), ('b', 'd', 5), ('c', 'd', 8)])
print(nx.shortest_path(G, 'a', 'd', weight='weight'), nx.dijkstra_path_length(G, 'a', 'd'))
# ---- grid_graph
import networkx as nx
G = nx.grid_2d_graph(4, 5)
print(G.number_of_nodes(), G.number_of_edges(), nx.diameter(G), len(list(nx.all_shortest_paths(G, (0, 0), (3, 4)))))
# ---- simple_paths_cube
import networkx as nx
Q = nx.hypercube_graph(3)
print(len(list(nx.all_simple_paths(Q, (0, 0, 0), (1, 1, 1)))), nx.is_bipartite(Q))
# ---- spanning_trees
import networkx as nx, numpy as np
G = nx.complete_graph(5)
A = nx.to_numpy_array(G)
D = np.diag(A.sum(axis=1)) - A
print(round(np.linalg.det(D[1:, 1:])), 5**3)
# ---- minimum_spanning_tree
import networkx as nx
G = nx.Graph()
pts = [(0, 0), (3, 1), (1, 4), (5, 5), (2, 2)]
for i, p in enumerate(pts):
    for j, q in enumerate(pts[:i]):
        G.add_edge(i, j, weight=abs(p[0] - q[0]) + abs(p[1] - q[1]))
T = nx.minimum_spanning_tree(G)
print(sorted(T.edges()), T.size(weight='weight'))
# ---- connected_components
import networkx as nx
G = nx.Graph((i, i*i % 30) for i in range(30))
print(sorted(len(c) for c in nx.connected_components(G)))
# ---- max_flow
import networkx as nx
G = nx.DiGraph()
for u, v, c in [('s', 'a', 10), ('s', 'b', 5), ('a', 'b', 15), ('a', 't', 5), ('b', 't', 10)]:
    G.add_edge(u, v, capacity=c)
print(nx.maximum_flow_value(G, 's', 't'), nx.minimum_cut_value(G, 's', 't'))
# ---- matching
import networkx as nx
B = nx.Graph([(1, 'a'), (1, 'b'), (2, 'a'), (3, 'c'), (4, 'c'), (4, 'd')])
m = nx.bipartite.maximum_matching(B, top_nodes=[1, 2, 3, 4])
print({k: m[k] for k in (1, 2, 3, 4)})
# ---- euler_circuit
import networkx as nx
K = nx.complete_graph(5)
print(nx.is_eulerian(K), len(list(nx.eulerian_circuit(K))), nx.is_eulerian(nx.complete_graph(4)))
# ---- cliques
import networkx as nx
G = nx.Graph((i, j) for i in range(1, 13) for j in range(i + 1, 13) if (i + j) % 3)
print(max(len(c) for c in nx.find_cliques(G)), sum(nx.triangles(G).values())//3)
# ---- topological
import networkx as nx
D = nx.DiGraph((d, n) for n in range(2, 25) for d in range(1, n) if n % d == 0)
print(nx.dag_longest_path(D), nx.is_directed_acyclic_graph(D), list(nx.topological_sort(D))[:3])
# ---- cycles_coloring
import networkx as nx
G = nx.petersen_graph()
c = nx.greedy_color(G, strategy='largest_first')
print(max(c.values()) + 1, nx.chordal.is_chordal(G), len(nx.cycle_basis(G)), nx.girth(G))
# ---- isomorphism
import networkx as nx
print(nx.is_isomorphic(nx.cycle_graph(6), nx.circulant_graph(6, [1])), nx.is_isomorphic(nx.complete_bipartite_graph(3, 3), nx.circulant_graph(6, [1])))
# ---- knight_moves
import networkx as nx
G = nx.Graph()
for x in range(8):
    for y in range(8):
        for dx, dy in ((1, 2), (2, 1), (-1, 2), (-2, 1)):
            if 0 <= x + dx < 8 and 0 <= y + dy < 8:
                G.add_edge((x, y), (x + dx, y + dy))
d = nx.single_source_shortest_path_length(G, (0, 0))
print(max(d.values()), sum(1 for v in d.values() if v == 4), G.number_of_edges())
# ---- planarity_connectivity
import networkx as nx
print(nx.check_planarity(nx.complete_graph(5))[0], nx.node_connectivity(nx.hypercube_graph(4)), list(nx.bridges(nx.path_graph(3))))
# ---- no_path_error
import networkx as nx
G = nx.Graph([(1, 2), (3, 4)])
nx.shortest_path(G, 1, 4)
# ---- pagerank_free_tree
import networkx as nx
T = nx.balanced_tree(2, 3)
print(nx.center(T), nx.is_tree(T), dict(nx.degree(T))[0], nx.to_prufer_sequence(T)[:5])
# ---- graph_repr
import networkx as nx
G = nx.Graph([(1, 2), (2, 3)])
print(G, list(G.edges), dict(G.adj))
